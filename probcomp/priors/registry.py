"""Priors by name, as the command line and configuration files write them.

``lattice:field=0,coupling=1.2`` is a name, a colon, and ``key=value`` pairs. A value is a number,
a size such as ``4x4``, a list such as ``[-1,0,0]``, or another prior in parentheses:
``blocks:tile=16x16,over=(lattice:field=-1,coupling=0.8)``.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

from probcomp.errors import InputError, unknown
from probcomp.priors.base import SupportPrior
from probcomp.priors.blocks import Blocks
from probcomp.priors.chain import Chain, GatedChain
from probcomp.priors.counting import ExactK, NofM
from probcomp.priors.independent import Independent
from probcomp.priors.lattice import Lattice
from probcomp.priors.tree import Tree
from probcomp.registry import Registry

PRIORS: Registry[Callable[..., SupportPrior]] = Registry("prior")
PRIORS.add("independent", Independent)
PRIORS.add("chain", Chain)
PRIORS.add("coupled-chain", Chain.from_coupling)
PRIORS.add("gated-chain", GatedChain)
PRIORS.add("lattice", Lattice)
PRIORS.add("blocks", Blocks)
PRIORS.add("n-of-m", NofM)
PRIORS.add("exact-k", ExactK)
PRIORS.add("tree", Tree)

EXAMPLES = {
    "independent": "independent:density=0.1",
    "chain": "chain:p01=0.1,p10=0.3",
    "coupled-chain": "coupled-chain:field=-1,coupling=2",
    "gated-chain": "gated-chain:gate=0.5,chain=(chain:p01=0.1,p10=0.3)",
    "lattice": "lattice:field=0,coupling=1.2",
    "blocks": "blocks:tile=16x16,over=(lattice:field=-1,coupling=0.8)",
    "n-of-m": "n-of-m:n=2,m=4",
    "exact-k": "exact-k:k=100",
    "tree": "tree:parents=[-1,0,0],density=0.5,persistence=0.7",
}
"""A line that works for each name; error messages and the command line show it."""


def parse_prior(text: str) -> SupportPrior:
    """The prior a string stands for.

    Raises:
        InputError: An unknown name or key, a missing key, or a value that does not parse; the
            message shows a line that works.

    Example:
        >>> parse_prior("lattice:field=0,coupling=1.2")
        Lattice(field=0, coupling=1.2)
    """
    if not isinstance(text, str) or not text.strip():
        raise InputError(
            f"a prior is written as name:key=value,..., got {text!r}{_like('lattice')}"
        )
    name, _, rest = text.strip().partition(":")
    name = name.strip().lower()
    make = PRIORS[name]
    values: dict[str, Any] = {}
    for pair in _split(rest, text):
        key, equals, value = pair.partition("=")
        key = key.strip()
        if not equals:
            raise InputError(f"prior {text!r}: expected key=value, got {pair!r}{_like(name)}")
        if key in values:
            raise InputError(f"prior {text!r}: {key} is given twice")
        values[key] = _value(value.strip(), text)
    return _build(name, make, values, text)


def format_prior(prior: SupportPrior) -> str:
    """The string that ``parse_prior`` turns back into an equal prior.

    Raises:
        InputError: A prior of an unregistered type, or with tensors for parameters.
    """
    names = [n for n in PRIORS if PRIORS[n] is type(prior)]
    if not names:
        raise InputError(f"the prior {type(prior).__name__} is not registered")
    fields = dataclasses.fields(prior)  # type: ignore[arg-type]
    pairs = (f"{f.name}={_written(getattr(prior, f.name))}" for f in fields)
    return f"{names[0]}:{','.join(pairs)}"


def _written(value: Any) -> str:
    if isinstance(value, SupportPrior):
        return f"({format_prior(value)})"
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    if isinstance(value, (int, float)):
        return repr(value)
    raise InputError(f"a {type(value).__name__} cannot be written as text; store it as a tensor")


def _split(text: str, whole: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character in "([") - (character in ")]")
        if depth < 0:
            break
        if character == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += character
    if depth:
        raise InputError(f"prior {whole!r}: brackets do not match")
    return [part for part in [*parts, current] if part.strip()]


def _value(text: str, whole: str) -> Any:
    if text.startswith("(") and text.endswith(")"):
        return parse_prior(text[1:-1])
    if text.startswith("[") and text.endswith("]"):
        return tuple(_value(part.strip(), whole) for part in _split(text[1:-1], whole))
    if re.fullmatch(r"\d+x\d+", text):
        return tuple(int(side) for side in text.split("x"))
    try:
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    except ValueError:
        raise InputError(
            f"prior {whole!r}: {text!r} is no number, no size such as 4x4, no list and no prior "
            "in parentheses"
        ) from None


def _build(name: str, make: Callable[..., SupportPrior], values: dict[str, Any], text: str) -> Any:
    expected = _keys(make)
    for key in values:
        if key not in expected:
            raise InputError(f"prior {text!r}: {unknown('key', key, expected)}{_like(name)}")
    missing = [key for key, needed in expected.items() if needed and key not in values]
    if missing:
        raise InputError(f"prior {text!r}: {' and '.join(missing)} missing{_like(name)}")
    return make(**values)


def _keys(make: Callable[..., SupportPrior]) -> dict[str, bool]:
    """Names of the parameters, and whether each must be given."""
    parameters = inspect.signature(make).parameters.values()
    return {p.name: p.default is p.empty for p in parameters}


def _like(name: str) -> str:
    example = EXAMPLES.get(name)
    return f"; write for example {example}" if example else ""
