"""The result of message passing, its options, and the table of solvers by type of prior."""

import functools
from dataclasses import dataclass
from typing import Any, Literal, Optional

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.priors.base import SupportPrior


@dataclass(frozen=True)
class Marginals:
    """Posterior over supports given a prior and one log-odds of evidence for each.

    Attributes:
        log_odds: Posterior ``log P(s=1) - log P(s=0)`` in nats, shape of the evidence.
        probability: ``P(s=1)``, same shape.
        pair: Joint probability that two neighbours are both on; what neighbours are depends on
            the prior. ``Chain``, ``GatedChain``: sites ``t`` and ``t + 1``, ``[..., N - 1]``.
            ``Lattice``: a tuple of across ``[..., R, C - 1]`` and down ``[..., R - 1, C]``.
            ``Tree``: a node and its parent, ``[..., N]``, at roots the node alone. ``Blocks``: that
            of the prior over the tiles. None where supports have no neighbours.
        log_z: ``log sum_s p(s) exp(<evidence, s>)`` under the normalised prior, batch shape.
        extrinsic: ``log_odds`` minus the evidence: what the other supports and the prior say.
        converged: Whether message passing reached its tolerance; true for exact solvers.
        exact: Whether the numbers are exact, or those of the Bethe approximation.
        iterations: Sweeps of message passing; 1 for exact solvers.
        state: Messages, to be passed as ``start`` for a warm start; None for exact solvers.
        gate: The posterior of what lies above the supports: of the gates of a ``GatedChain``
            (batch shape), of the tiles of ``Blocks``. None for other priors.
    """

    log_odds: Tensor
    probability: Tensor
    pair: Tensor | tuple[Tensor, Tensor] | None
    log_z: Tensor
    extrinsic: Tensor
    converged: bool = True
    exact: bool = True
    iterations: int = 1
    state: Any = None
    gate: Optional["Marginals"] = None


@dataclass(frozen=True)
class Options:
    """How to pass messages; only loopy graphs use them. See ``marginals`` for the meaning."""

    start: Any = None
    max_iterations: int = 200
    tolerance: float | None = None
    damping: float = 0.3
    on_unreliable: Literal["raise", "warn", "ignore"] = "raise"
    method: Literal["auto", "exact", "loopy"] = "auto"
    need_log_z: bool = True


@functools.singledispatch
def solve(prior: SupportPrior, evidence: Tensor, options: Options) -> Marginals:
    """Solve for a prior's type. ``solve.register(MyPrior)`` enters a solver for a new prior.

    A solver gets evidence that is finite, floating, and has at least the prior's event
    dimensions. It may exceed the clip of ``marginals``, since tiles sum their evidence.
    """
    raise InputError(
        f"no solver for the prior {type(prior).__name__}; "
        "enter one with probcomp.inference.solver.solve.register"
    )


def finish(evidence: Tensor, extrinsic: Tensor, log_z: Tensor, **rest: Any) -> Marginals:
    """A result from its extrinsic part."""
    log_odds = evidence + extrinsic
    pair = rest.pop("pair", None)
    return Marginals(log_odds, torch.sigmoid(log_odds), pair, log_z, extrinsic, **rest)
