"""The command table, and what becomes of errors.

Exit statuses: 0 done; 2 bad input, with one line on standard error; 1 an error of ours, with one
line and the way to its traceback; 130 interrupted.
"""

import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from probcomp.cli import advise, bench, compress, decode, doctor, methods
from probcomp.cli.options import debugging
from probcomp.errors import ProbcompError

INTERRUPTED, BAD_INPUT, OUR_FAULT = 130, 2, 1

app = typer.Typer(
    name="probcomp",
    help="Bayesian compression of neural networks: a posterior over what to keep, and a really "
    "smaller model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("compress")(compress.compress)
app.command("advise")(advise.advise)
app.command("decode")(decode.decode)
app.command("methods")(methods.methods)
app.command("doctor")(doctor.doctor)
app.command("bench", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    bench.bench
)


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context,
    show: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    """Bayesian compression of neural networks: a posterior over what to keep, and a really smaller
    model.
    """
    if show:
        from probcomp import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of the ``probcomp`` command."""
    signal.signal(signal.SIGTERM, _stop)
    if not debugging():
        # Other libraries' notes are not for the user, whose one line would drown in them.
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status. Nothing escapes but `SystemExit`."""
    try:
        status: Any = app(args=list(arguments), prog_name="probcomp", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except BrokenPipeError:  # the reader of our output, such as head, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUR_FAULT
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted; no result was written")
        return INTERRUPTED
    except ProbcompError as error:
        _trace()
        _say(f"error: {error}")
        return BAD_INPUT
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the option parser
            _say(f"error: {error.format_message()} Try 'probcomp --help'.")
            return BAD_INPUT
        if isinstance(error, OSError) and error.filename is not None:
            _trace()
            _say(f"error: {error.filename}: {error.strerror}")
            return BAD_INPUT
        _trace()
        hint = "" if debugging() else " Set PROBCOMP_DEBUG=1 to see the traceback."
        _say(f"internal error: {type(error).__name__}: {error}{_place(error)}.{hint}")
        return OUR_FAULT


def _say(text: str) -> None:
    """One line on standard error, whatever the message holds."""
    sys.stderr.write(f"probcomp: {' '.join(text.split())}\n")


def _trace() -> None:
    if debugging():
        traceback.print_exc()


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""


def _stop(signum: int, frame: object) -> None:
    """Leave through the ``finally`` blocks, so that temporary files go."""
    raise SystemExit(128 + signum)
