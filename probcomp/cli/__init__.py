"""The command line. Each command parses, calls one public function, and prints."""

from probcomp.cli.app import main as main
