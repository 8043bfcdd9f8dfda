"""What a round aims at: strength of the divergence, width of the spike, cost, how gates feel it."""

import math
from dataclasses import dataclass

from probcomp.inference.training.config import TurboConfig

SAMPLES_PER_WEIGHT = 1 / 7
"""Data for each weight from which on the divergence counts in full; see `divergence_weight`."""

LEAST_SHARE = 1e-3
"""Where the cost aimed at ends if no target is named. The price then stops at zero on the way."""


@dataclass(frozen=True)
class Plan:
    """What one round aims at.

    Attributes:
        kl_weight: Weight of the divergence.
        kappa: Spike over slab mean square.
        learning: Share of the first learning rate.
        aim: Expected cost to reach, in the cost's unit.
        ceiling: Highest price, nats: 0 where no target was named.
        subsidise: Whether gates feel a negative price, so that units leave as slowly as the aim
            falls, the least needed first.
        settled: Whether every schedule has ended.
        coupling: Coupling of the default lattice, or ``None`` to leave the priors as they are.
    """

    kl_weight: float
    kappa: float
    learning: float
    aim: float
    ceiling: float
    subsidise: bool
    settled: bool
    coupling: float | None = None


def plan(config: TurboConfig, round: int, whole: float, target: float | None, full: float) -> Plan:
    """The plan of a round.

    Args:
        config: Settings.
        round: Rounds done.
        whole: Cost of the dense model.
        target: Cost asked for, or ``None``.
        full: Weight of the divergence at full strength.
    """
    done, next_ = round / config.rounds, (round + 1) / config.rounds
    share = ramp(next_, config.target_rounds)
    end = LEAST_SHARE * whole if target is None else target
    kappa = (config.kappa_end / config.kappa_start) ** ramp(done, config.kappa_rounds)
    ends = [config.kl_warmup, config.kappa_rounds, config.target_rounds]
    coupling = None
    if config.coupling_start is not None:
        rise = (config.coupling - config.coupling_start) * ramp(done, config.coupling_rounds)
        coupling = config.coupling_start + rise
        ends.append(config.coupling_rounds)
    return Plan(
        kl_weight=full * ramp(next_, config.kl_warmup),
        kappa=config.kappa_start * kappa,
        learning=0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)),
        aim=whole * (end / whole) ** share,  # geometric: equal factors in equal times
        ceiling=0.0 if target is None else math.inf,
        subsidise=share < 1,
        settled=done >= max(ends),
        coupling=coupling,
    )


def ramp(done: float, over: float) -> float:
    """0 to 1 over a share of the run."""
    return 1.0 if over <= 0 else min(done / over, 1.0)


def divergence_weight(config: TurboConfig, terms: int, weights: int) -> float:
    r"""Weight of the divergence at full strength, :math:`\min(1, 7 |D| / N)` unless it is given.

    With few data for each weight the mean-field bound is at its optimum where most units equal
    their prior and the network no longer fits (Trippe and Turner 2018, "Overpruning in variational
    Bayesian neural networks"): the divergence of each weight is paid in full, while the loss that a
    weight prevents is shared with all others that could do the same. A weight below 1, a cold
    posterior, makes up for it. The rule gives 1 from one sample for every seven weights on. It was
    set by two points: 0.2 for 1,437 digits and 50,200 weights; and 1 for 60,000 MNIST images and
    266,200 weights, where at 4,100 kept weights the error is 1.8 % with 1 and 2.5 % with 0.3.

    Args:
        config: Its ``kl_weight``, where there is one, is the answer.
        terms: Training samples ``|D|``, or tokens where each is a term of the loss.
        weights: Weights ``N`` with a posterior.
    """
    if config.kl_weight is not None:
        return config.kl_weight
    return min(1.0, terms / weights / SAMPLES_PER_WEIGHT)
