r"""Turbo inference: a model of weights and a prior over supports take turns.

The weight side turns the current extrinsic log-odds ``psi`` of each support into evidence ``l``
for it; the structure side turns ``l`` into posterior log-odds under the prior. Each passes on only
what the other did not already know: ``l`` goes down, ``psi = log-odds - l`` comes back, so nothing
is counted twice. On a prior whose marginals are exact (chains, independent supports) and with a
collapsed weight posterior the alternation is coordinate ascent on one evidence bound

.. math:: E_q[\ln p(D|w)] + H(q(w)) + \sum_n \ln f^0_n + \ln\frac{Z(l)}{Z(0)}

(Xia, Tsang and Lau 2023, IEEE TSP 71; the turbo principle is Berrou and Glavieux 1996).
"""

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from probcomp.errors import DivergenceError, InputError
from probcomp.inference.supports import Marginals, marginals

S = TypeVar("S")


class WeightModule(Protocol[S]):
    """The weight side: a posterior over weights given extrinsic log-odds of their supports."""

    def start(self) -> S:
        """The state before any message."""
        ...

    def update(self, state: S, psi: Tensor) -> tuple[S, Tensor]:
        """New state and evidence ``l`` (nats) given ``psi``; ``l`` must not contain ``psi``."""
        ...

    def bound(self, state: S, result: Marginals) -> float:
        """The evidence bound in nats, given the supports' posterior under the last evidence."""
        ...


@dataclass(frozen=True)
class Turbo(Generic[S]):
    """Where the alternation ended.

    Attributes:
        weights: State of the weight module.
        log_odds: Evidence ``l``, nats.
        psi: Extrinsic log-odds from the structure; ``psi + l`` is the belief.
        marginals: The supports' posterior.
        bounds: Evidence bound after each iteration, nats.
        converged: Whether beliefs stopped moving.
        iterations: Iterations done.
    """

    weights: S
    log_odds: Tensor
    psi: Tensor
    marginals: Marginals
    bounds: tuple[float, ...]
    converged: bool
    iterations: int

    @property
    def probability(self) -> Tensor:
        """Inclusion probabilities."""
        return self.marginals.probability


def turbo(
    weights: WeightModule[S],
    prior: Any,
    *,
    size: tuple[int, ...],
    probability: float | None = None,
    max_iterations: int = 200,
    tolerance: float = 1e-8,
    inner: int = 1,
    dtype: torch.dtype = torch.float64,
) -> Turbo[S]:
    """Alternate a weight module and a support prior until their beliefs agree.

    Args:
        weights: The weight side.
        prior: The support prior.
        size: Shape of the supports.
        probability: Inclusion probability the weights see first; the prior's own by default.
        max_iterations: Limit on rounds of the alternation.
        tolerance: Stop when no inclusion probability moves by more.
        inner: Weight updates for each pass over the structure.
        dtype: Type of the messages.

    Raises:
        InputError: An option is out of range.
        DivergenceError: The weight side returned evidence that is not finite.
    """
    if max_iterations < 1 or inner < 1:
        raise InputError(
            f"max_iterations and inner must be at least 1, got {max_iterations} and {inner}"
        )
    if probability is not None and not 0 < probability < 1:
        raise InputError(f"probability must be in (0, 1), got {probability}")
    result = marginals(prior, torch.zeros(size, dtype=dtype))
    psi = result.log_odds
    if probability is not None:
        psi = torch.full(size, probability, dtype=dtype).logit()
    state, l = weights.start(), torch.zeros(size, dtype=dtype)
    bounds: list[float] = []
    last, converged, iteration = torch.sigmoid(psi), False, 0
    for iteration in range(1, max_iterations + 1):
        for _ in range(inner):
            state, l = weights.update(state, psi)
        if not bool(torch.isfinite(l).all()):
            raise DivergenceError(f"the evidence is not finite in iteration {iteration}")
        result = marginals(prior, l, start=result.state)
        psi = result.extrinsic
        bounds.append(weights.bound(state, result))
        change = float((result.probability - last).abs().max())
        last = result.probability
        if change < tolerance:
            converged = True
            break
    return Turbo(state, l, psi, result, tuple(bounds), converged, iteration)
