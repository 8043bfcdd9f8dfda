"""Errors a user can act on: each says what was got, what was expected, and what to do."""

import difflib
from collections.abc import Iterable


class ProbcompError(Exception):
    """Base of every error raised on purpose. The command line prints it in one line, status 2."""


class InputError(ProbcompError, ValueError):
    """An argument, a file or a tensor does not fit."""


class BudgetError(InputError):
    """A budget that is unknown, out of range, or out of reach for this model."""


class TraceError(ProbcompError):
    """A model whose structure could not be read."""


class SurgeryError(ProbcompError):
    """A cut that is not possible, or that would not be exact."""


class DivergenceError(ProbcompError):
    """Training or inference produced a value that is not finite."""


class ConvergenceError(ProbcompError):
    """An inference that was refused because it would not converge."""


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a name that is not in ``known``, with the nearest names as a suggestion."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=2)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return InputError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")
