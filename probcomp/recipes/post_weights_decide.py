r"""Which weights stay: evidence of each layer, one price for all layers, and masks of a given size.

A layer's evidence is computed by `ep_shared` (`joint_cavi` where it is wide) at a field of
``-price * cost``; the price is found by bisection with the evidence held, and both are repeated.
The price may be negative: a budget that allows more than the posterior asks for is used up, since
what is asked for is the smallest loss within it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from probcomp.allocation.price import solve_price
from probcomp.errors import BudgetError, InputError
from probcomp.inference.learning import learn as learn_prior
from probcomp.inference.quadratic import Quadratic, WeightResult, WeightState, ep_shared, joint_cavi
from probcomp.inference.quadratic.beliefs import beliefs, messages
from probcomp.inference.solver import Marginals
from probcomp.priors.base import SupportPrior, check_dims
from probcomp.priors.blocks import Blocks
from probcomp.priors.counting import ExactK, NofM
from probcomp.priors.independent import Independent
from probcomp.recipes.post_weights_config import WeightsConfig

TOLERANCE = 1e-4
COUPLED_TOLERANCE, COUPLED_EVALUATIONS = 2e-3, 30
"""How far below the budget a price may end; each evaluation of a coupled prior passes messages."""
STILL = 1e-2
"""Probabilities that move less than this end an inference."""
FARTHEST = 1e12


@dataclass(frozen=True, eq=False)
class Belief:
    """What is known about the weights of one layer.

    Attributes:
        evidence: What the data say, nats, ``[do, di]``.
        result: The whole result, for moments and a warm start.
    """

    evidence: Tensor
    result: WeightResult


def is_pattern(prior: SupportPrior | None) -> bool:
    """Whether a prior fixes how many weights stay, so that no price can change it."""
    if isinstance(prior, Blocks):
        return is_pattern(prior.over)
    return isinstance(prior, NofM | ExactK)


def is_coupled(prior: SupportPrior | None) -> bool:
    """Whether the beliefs about one weight depend on the evidence of others."""
    return not (prior is None or isinstance(prior, Independent))


def check_prior(prior: Any, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Refuse what is no support prior, or does not fit one of the matrices.

    Raises:
        InputError: Naming the layer.
    """
    if prior is None:
        return
    if not isinstance(prior, SupportPrior):
        raise InputError(
            f"prior must be a prior over the weights of a matrix, such as Lattice or NofM, got "
            f"{prior!r}"
        )
    for name, shape in shapes.items():
        try:
            check_dims(prior, shape)
            beliefs(prior, torch.zeros(shape), max_iterations=1)
        except InputError as error:
            raise InputError(f"the prior does not fit {name} {shape}: {error}") from None


def believe(
    quadratic: Quadratic,
    rows: Tensor | None,
    prior: SupportPrior | None,
    *,
    field: float,
    config: WeightsConfig,
    learn: bool = False,
    start: WeightState | None = None,
) -> Belief:
    """Evidence of each weight of a layer, in the nats of its quadratic.

    Args:
        quadratic: The likelihood.
        rows: Weight of each row's loss, ``[do]``.
        prior: Prior of the supports.
        field: Log-odds that a price adds.
        config: The settings.
        learn: Whether the prior is learnt further.
        start: Sites of an earlier inference.
    """
    infer = ep_shared if quadratic.size <= config.widest else joint_cavi
    square = float(quadratic.weight.square().mean())
    slab = 1 / square if square > 0 else 1.0
    result = infer(
        quadratic,
        prior=prior,
        slab=slab,
        spike=config.spike * slab,
        field=field,
        rows=rows,
        learn=learn_prior if learn else _as_given,
        start=start,
        iterations=config.iterations,
        tolerance=STILL,
        **options(prior, config),
    )
    return Belief(result.evidence, result)


def continued(belief: Belief, quadratic: Quadratic, grown: float) -> WeightState:
    """A start for a likelihood that counts ``grown`` times as much, in its precision.

    Where an inference begins, not where it ends: a site stands for a weight's prior between slab
    and spike. Sites of weights that stay for good fall to the slab as data count more, and those of
    others rise, by less than the data. So a start that is grown upwards is too far, and where few
    iterations follow, some of that is left.
    """
    state = belief.result.state
    kind = quadratic.weight.dtype
    if state.linear.dtype == kind and grown == 1:
        return state
    return replace(
        state,
        site=state.site.to(kind) * grown,
        linear=state.linear.to(kind) * grown,
        mean=state.mean.to(kind),
        messages=None,
    )


def _as_given(prior: Any, posterior: Marginals) -> SupportPrior:
    return prior


def options(prior: SupportPrior | None, config: WeightsConfig) -> dict[str, Any]:
    """Options of `marginals`."""
    return {"max_iterations": config.sweeps} if is_coupled(prior) else {}


def solve(
    found: Mapping[str, Belief],
    prior: SupportPrior | None,
    costs: Mapping[str, float],
    allowed: float,
    config: WeightsConfig,
) -> tuple[float, dict[str, Tensor]]:
    """The price at which the expected decision fits the budget, and log-odds at that price.

    Args:
        found: Evidence of each layer.
        prior: Prior of the supports.
        costs: Cost of one weight of each layer.
        allowed: What the weights may cost in all.
        config: The settings.

    Raises:
        BudgetError: A pattern that keeps more than the budget.
    """
    if is_pattern(prior):
        return 0.0, {n: odds(b.evidence, prior, 0.0, config) for n, b in found.items()}
    start = {n: b.result.state.messages for n, b in found.items()}

    def at(price: float) -> dict[str, Tensor]:
        made = {}
        for name, belief in found.items():
            field = belief.evidence - price * costs[name]
            made[name], result = beliefs(prior, field, start=start[name], **options(prior, config))
            start[name] = messages(result)
        return made

    def cost(price: float) -> float:
        return sum(costs[n] * int((o > 0).sum()) for n, o in at(price).items())

    scale = sum(b.evidence.numel() for b in found.values()) / max(
        sum(costs[n] * b.evidence.numel() for n, b in found.items()), 1e-300
    )
    whole = sum(costs[n] * b.evidence.numel() for n, b in found.items())
    shift, step = 0.0, scale
    while cost(-shift) < min(allowed, whole) and step < FARTHEST * scale:
        shift, step = step, 8 * step
    coupled = is_coupled(prior)
    price = solve_price(
        lambda p: cost(p - shift),
        allowed,
        start=scale + shift,
        tolerance=COUPLED_TOLERANCE if coupled else TOLERANCE,
        max_evaluations=COUPLED_EVALUATIONS if coupled else 80,
    )
    value = price.value - shift
    return value, at(value)


def odds(
    evidence: Tensor, prior: SupportPrior | None, field: float, config: WeightsConfig
) -> Tensor:
    """Posterior log-odds of a layer at a field."""
    return beliefs(prior, evidence + field, **options(prior, config))[0]


def masks_of_sign(log_odds: Mapping[str, Tensor], prior: SupportPrior | None) -> dict[str, Tensor]:
    """Each weight, tile or pattern that is more probably kept than not."""
    return {name: choose(value, prior, int((value > 0).sum())) for name, value in log_odds.items()}


def choose(log_odds: Tensor, prior: SupportPrior | None, count: int) -> Tensor:
    """The mask of highest log-odds: at most ``count`` weights, or what the prior's pattern fixes.

    Args:
        log_odds: Posterior log-odds, ``[do, di]``.
        prior: With `Blocks` whole tiles stay; with `NofM` and `ExactK` their number in each group.
        count: How many weights stay.
    """
    if isinstance(prior, Blocks):
        ones = torch.ones_like(log_odds)
        sizes = prior.gather(ones)
        tiles = prior.gather(log_odds) / sizes
        if is_pattern(prior.over):
            kept = choose(tiles, prior.over, 0)
        else:
            order = tiles.flatten().argsort(descending=True, stable=True)
            fits = sizes.flatten()[order].cumsum(0) <= count
            kept = torch.zeros(tiles.numel(), dtype=torch.bool)
            kept[order[fits]] = True
            kept = kept.view(tiles.shape)
        return prior.spread(kept.to(log_odds), log_odds.shape).bool()
    if isinstance(prior, NofM):
        groups = log_odds.unflatten(-1, (-1, prior.m))
        return _highest(groups, prior.n).flatten(-2)
    if isinstance(prior, ExactK):
        return _highest(log_odds, prior.k)
    order = log_odds.flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(log_odds.numel(), dtype=torch.bool)
    mask[order[:count]] = True
    return mask.view(log_odds.shape)


def _highest(groups: Tensor, count: int) -> Tensor:
    order = groups.argsort(dim=-1, descending=True, stable=True)[..., :count]
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order, True)


def check_pattern(
    prior: SupportPrior | None,
    shapes: Mapping[str, tuple[int, int]],
    costs: Mapping[str, float],
    allowed: float,
    say: Callable[[float], str],
) -> float:
    """What a pattern keeps, in the unit of the budget.

    Args:
        prior: A prior that fixes how many stay.
        shapes: The matrices.
        costs: Cost of one weight of each.
        allowed: What they may cost.
        say: What to ask for instead, given what the pattern needs.

    Raises:
        BudgetError: It keeps more than the budget allows.
    """
    needed = sum(
        costs[n] * int(choose(torch.zeros(shape), prior, 0).sum()) for n, shape in shapes.items()
    )
    if needed > allowed:
        raise BudgetError(
            f"{prior!r} fixes how many weights stay, and they cost {needed:g} where the budget "
            f"leaves {allowed:g}; {say(needed)}"
        )
    return needed
