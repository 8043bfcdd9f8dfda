"""Bayesian and probabilistic compression of neural networks.

Compression is inference over binary supports: which units and weights of a network may go, given
what the data say and what was believed before. The public names below are imported on first use,
so that ``import probcomp`` stays fast and pulls in neither jax nor transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from probcomp.allocation import Budget as Budget
    from probcomp.coding import load as load
    from probcomp.decoding import decode as decode
    from probcomp.errors import ProbcompError as ProbcompError
    from probcomp.recipes import Compressed as Compressed
    from probcomp.recipes import compress as compress  # type: ignore[no-redef]
    from probcomp.regime import advise as advise
    from probcomp.structure import save as save
    from probcomp.structure import shrink as shrink  # type: ignore[no-redef]
    from probcomp.structure import trace as trace  # type: ignore[no-redef]

_HOME = {
    "Budget": "probcomp.allocation",
    "Compressed": "probcomp.recipes",
    "ProbcompError": "probcomp.errors",
    "advise": "probcomp.regime",
    "compress": "probcomp.recipes",
    "decode": "probcomp.decoding",
    "load": "probcomp.coding",
    "save": "probcomp.structure",
    "shrink": "probcomp.structure",
    "trace": "probcomp.structure",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'probcomp' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
