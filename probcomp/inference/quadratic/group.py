r"""Expectation propagation over units: heads, neurons, channels, whole column groups.

A unit is a group of ``k`` columns of each consumer that reads it. Its support ``s_g`` is shared by
all rows and all consumers; removed columns are exactly zero, kept weights have a slab
:math:`N(0, 1/\alpha)`. Each group's factor is approximated by a Gaussian site
:math:`N(\tau_g I, \nu_{rg})` whose precision all rows share, so one inverse serves the layer:

.. math:: C = (A + \operatorname{diag}\tau)^{-1},\quad M = (B + \nu) C,\quad
          \Lambda_g = C_{gg}^{-1} - \tau_g I,\quad \eta_{rg} = M_{rg} C_{gg}^{-1} - \nu_{rg}

.. math:: l_g = d_o\bigl[\tfrac k2 \ln\alpha - \tfrac12 \ln\det(\Lambda_g + \alpha I)\bigr]
          + \tfrac12 \sum_r \eta_{rg}^\top (\Lambda_g + \alpha I)^{-1} \eta_{rg}

The evidence of several consumers adds up; the prior adds its extrinsic log-odds; and the site is
matched to the mean and the total variance of the resulting mixture (Minka 2001, "Expectation
propagation for approximate Bayesian inference"; for spike and slab, Hernandez-Lobato et al. 2013).
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probcomp.errors import DivergenceError, InputError
from probcomp.inference.quadratic.beliefs import beliefs, messages
from probcomp.inference.quadratic.likelihood import Quadratic
from probcomp.inference.quadratic.savage_dickey import check_columns
from probcomp.inference.quadratic.sites import (
    FactorState,
    factor_cavity,
    movement,
    start_state,
    update,
)
from probcomp.priors.base import SupportPrior

STILL = 10.0
"""Sites and learnt slabs have settled when they move by less than this many tolerances."""

PATIENCE = 5
HEAVY = 0.8
"""After this many iterations without progress the damping is raised to this."""


@dataclass(frozen=True, eq=False)
class GroupFactor:
    """What one consumer says about the units of an axis.

    Attributes:
        quadratic: Its likelihood.
        columns: Columns of each unit in it, ``[G, k]``. Columns of no unit always stay.
        slab: Precision of a kept weight, nats per squared weight; None starts at one over the mean
            square of the dense weights and learns it by EM.
    """

    quadratic: Quadratic
    columns: Tensor
    slab: float | None = None

    def __post_init__(self) -> None:
        check_columns(self.columns, self.quadratic.size)
        if self.slab is not None and not (math.isfinite(self.slab) and self.slab > 0):
            raise InputError(f"slab must be a positive precision or None, got {self.slab}")


@dataclass(frozen=True, eq=False)
class GroupResult:
    """Inclusion of the units of one axis.

    Attributes:
        log_odds: Posterior log-odds ``[G]``, nats; not clipped.
        probability: Inclusion probabilities ``[G]``.
        evidence: What the consumers say, ``[G]``, nats; prior, field and price excluded.
        field: Field on top of the prior, ``[G]``, nats; without the price.
        cost: Cost of each unit, ``[G]``, in the budget's unit.
        price: Nats for each unit of cost; lowers the log-odds by ``price * cost``.
        prior: Prior over the units, or None.
        slabs: Slab precision of each factor.
        iterations: Inverses taken of each factor's matrix.
        converged: Whether no probability moved by more than the tolerance.
        change: Largest move of a probability in the last iteration.
        states: Sites of each factor, for a warm start.
        messages: Messages of the prior, for a warm start.
    """

    log_odds: Tensor
    probability: Tensor
    evidence: Tensor
    field: Tensor
    cost: Tensor
    price: float
    prior: SupportPrior | None
    slabs: tuple[float, ...]
    iterations: int
    converged: bool
    change: float
    states: tuple[FactorState, ...]
    messages: Any = None

    def at_price(self, price: float) -> "GroupResult":
        """The same evidence under another price: message passing only, no inverse.

        Valid where the units' needs do not depend on each other much; pass the result as ``start``
        to `ep_group` to bring the evidence up to date with what the price removed.
        """
        odds, result = beliefs(
            self.prior, self.evidence + self.field - price * self.cost, start=self.messages
        )
        return dataclasses.replace(
            self,
            log_odds=odds,
            probability=torch.sigmoid(odds),
            price=price,
            messages=messages(result),
        )

    def expected_cost(self, price: float) -> float:
        """``E[sum_g c_g s_g]`` at a price; falls with it, at the slope ``-Var(sum_g c_g s_g)``.

        Sum it over several axes to solve for one global price with
        `probcomp.allocation.price.solve_price`.
        """
        return float((self.at_price(price).probability * self.cost).sum())


def ep_group(
    factors: Sequence[GroupFactor],
    *,
    prior: SupportPrior | None = None,
    field: Tensor | float | None = None,
    cost: Tensor | float | None = None,
    price: float | None = None,
    start: GroupResult | None = None,
    iterations: int = 15,
    tolerance: float = 1e-3,
    damping: float = 0.2,
    learn: bool = False,
    **options: Any,
) -> GroupResult:
    """Inclusion probabilities of the units of one axis.

    An iteration costs one inverse, ``di^3`` operations, and one product, ``2 do di^2``, for each
    factor. Memory: three matrices ``[di, di]`` and four ``[do, di]`` for each factor.

    Args:
        factors: The axis's consumers; each names the columns of all G units.
        prior: Support prior over the units in order; by default that of ``start``, else even odds.
        field: Log-odds added to the prior's, a number or ``[G]``; by default that of ``start``,
            else 0.
        cost: Cost of each unit, a number or ``[G]``, >= 0; by default that of ``start``, else 1.
        price: Nats for each unit of cost; by default that of ``start``, else 0.
        start: An earlier result of the same axis: its sites, messages and learnt slabs are
            continued. Without it every unit starts as kept.
        iterations: Most iterations.
        tolerance: Stop when no probability moves by more, and sites have settled.
        damping: Share of the old sites that is kept in an iteration, in [0, 1). It is raised to
            0.8 where probabilities keep swinging. Below 0.1 units that stand in for each other
            may leave together.
        learn: Learn the prior's parameters as well; needs a prior, and a field and price of 0.
            Fewer than some two hundred units leave density and slab open: `ep_layers` then sums
            over both, and learns them from all layers at once.
        options: Passed to `probcomp.inference.marginals`, as in ``on_unreliable="ignore"``.

    Raises:
        InputError: Factors that disagree about the number of units, bad options, NaN.
        DivergenceError: A Gram matrix that is not positive definite to working precision.

    Example:
        >>> factor = GroupFactor(Quadratic(weight, gram), columns)  # columns [G, k]
        >>> result = ep_group([factor], prior=Independent(0.5))
        >>> price = solve_price(result.expected_cost, budget=100).value
        >>> result = ep_group([factor], price=price, start=result)
    """
    units = check_axis(factors, iterations, tolerance, damping)
    like = factors[0].quadratic.weight
    if start is not None:
        if start.evidence.shape != (units,):
            raise InputError(
                f"the warm start has {len(start.evidence)} units, these factors have {units}"
            )
        started, wanted = (
            [tuple(s.linear.shape) for s in start.states],
            [tuple(f.quadratic.weight.shape) for f in factors],
        )
        if started != wanted:
            raise InputError(f"the warm start is for consumers {started}, these are {wanted}")
        prior = start.prior if prior is None else prior
        field = start.field if field is None else field
        cost = start.cost if cost is None else cost
    field_ = per_unit("field", 0.0 if field is None else field, units, like)
    cost_ = per_unit("cost", 1.0 if cost is None else cost, units, like)
    if bool((cost_ < 0).any()):
        raise InputError("costs cannot be negative")
    price_ = price if price is not None else (start.price if start is not None else 0.0)
    if not math.isfinite(price_):
        raise InputError(f"price must be finite, got {price_}")
    bias = field_ - price_ * cost_
    if learn and (prior is None or bool((bias != 0).any())):
        raise InputError("learn needs a prior, and a field and price of 0: both would be unlearnt")
    return _iterate(
        factors, prior, field_, cost_, price_, start, iterations, tolerance, damping, learn, options
    )


def _iterate(
    factors: Sequence[GroupFactor],
    prior: SupportPrior | None,
    field: Tensor,
    cost: Tensor,
    price: float,
    start: GroupResult | None,
    iterations: int,
    tolerance: float,
    damping: float,
    learn: bool,
    options: dict[str, Any],
) -> GroupResult:
    from probcomp.inference.learning import learn as learn_prior

    bias = field - price * cost
    states = tuple(map(start_state, factors)) if start is None else _continued(start, factors)
    probability = start.probability if start is not None else torch.ones_like(field)
    warm = start.messages if start is not None else None
    change, best, converged, iteration, stalled = math.inf, math.inf, False, 0, 0
    odds = evidence = torch.zeros_like(field)
    for iteration in range(1, iterations + 1):
        cavities = [factor_cavity(f, s) for f, s in zip(factors, states)]
        evidence = torch.stack([c.evidence for c in cavities]).sum(0)
        if not bool(torch.isfinite(evidence).all()):
            raise DivergenceError(f"the evidence is not finite in iteration {iteration}")
        odds, result = beliefs(prior, evidence + bias, start=warm, **options)
        warm = messages(result)
        if learn and prior is not None and result is not None:
            prior = learn_prior(prior, result)
        new = torch.sigmoid(odds)
        change = float((new - probability).abs().max())
        probability = new
        stalled = stalled + 1 if change >= best else 0
        best = min(best, change)
        if stalled >= PATIENCE:
            damping, stalled = max(damping, HEAVY), 0
        old, states = (
            states,
            tuple(
                update(f, s, c, probability, damping) for f, s, c in zip(factors, states, cavities)
            ),
        )
        moves = max(map(movement, factors, cavities, old, states))
        if change < tolerance and moves < STILL * tolerance:
            converged = True
            break
    return GroupResult(
        odds,
        probability,
        evidence,
        field,
        cost,
        price,
        prior,
        tuple(s.slab for s in states),
        iteration,
        converged,
        change,
        states,
        warm,
    )


def _continued(start: GroupResult, factors: Sequence[GroupFactor]) -> tuple[FactorState, ...]:
    """The sites of an earlier result, with the slabs that the factors name."""
    return tuple(
        state if f.slab is None else dataclasses.replace(state, slab=f.slab)
        for state, f in zip(start.states, factors, strict=True)
    )


def check_axis(
    factors: Sequence[GroupFactor],
    iterations: int = 1,
    tolerance: float = 1.0,
    damping: float = 0.0,
) -> int:
    """The number of units, or one error that names everything wrong."""
    if isinstance(factors, GroupFactor) or not factors:
        raise InputError("an axis needs a sequence of at least one GroupFactor")
    wrong = []
    sizes = sorted({len(f.columns) for f in factors})
    if len(sizes) > 1:
        wrong.append(f"all factors of an axis have the same units, got {sizes} of them")
    kinds = sorted({str(f.quadratic.weight.dtype) for f in factors})
    if len(kinds) > 1:
        wrong.append(f"all factors of an axis have one dtype, got {kinds}")
    if iterations < 1:
        wrong.append(f"iterations must be at least 1, got {iterations}")
    if not tolerance > 0:
        wrong.append(f"tolerance must be positive, got {tolerance}")
    if not 0 <= damping < 1:
        wrong.append(f"damping must be in [0, 1), got {damping}")
    if wrong:
        raise InputError("; ".join(wrong))
    return sizes[0]


def per_unit(name: str, value: Tensor | float, units: int, like: Tensor) -> Tensor:
    """A number or ``[G]`` as ``[G]``."""
    tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if tensor.shape not in ((), (1,), (units,)):
        raise InputError(
            f"{name} must be a number or have the shape ({units},), got {tuple(tensor.shape)}"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{name} holds NaN or infinite values")
    return tensor.expand(units)
