"""Contracts for extensions: a test class for each extension point, to inherit. Needs pytest."""
