"""Which pilot of some to run next: the one expected to settle whether to move, for its cost.

For runs at hand. Campaigns ask to where the knob is to go, see `probcomp.regime.worth`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from probcomp.errors import InputError
from probcomp.regime.knobs import Array

if TYPE_CHECKING:
    from probcomp.regime.fit import RegimeModel

ENOUGH_ESS = 0.1
"""Least effective share of draws under the simulated outcomes; below it weights mean little."""

STOP_GAIN = 0.02
"""Nats: a pilot that promises less about the decision is not worth a run."""

STOP_CONFIDENCE = 0.95


@dataclass(frozen=True)
class NextPilot:
    """A pilot to run.

    Attributes:
        settings: Knob values by name; load: at which load.
        information: Expected information about all parameters (nats).
        decision_gain: Expected fall of the entropy of the decision (nats).
        largest_gain: The largest such fall that any candidate promised when this one was chosen; a
            cheaper one may have been.
        cost: What it is expected to take, in ``cost_unit``.
        by: ``"decision"`` or ``"information"``, whichever chose it.
        cost_unit: ``"seconds"``; ``"runs"``, of which it is one, where no run's time is known.
    """

    settings: dict[str, float]
    load: float
    information: float
    decision_gain: float
    cost: float
    by: str
    largest_gain: float = 0.0
    cost_unit: str = "seconds"


def expected_information(mean: Array, variance: Array) -> Array:
    """``log det(I + D^-1/2 Cov_s[mean] D^-1/2) / 2`` for each candidate, in nats.

    The mutual information of a Gaussian outcome and the parameters, when the channel means are
    Gaussian over the draws: a linear-Gaussian form of Houlsby et al. 2011 (BALD), eq. (2).

    Args:
        mean: Channel means of each draw, [draws, candidates, channels].
        variance: Noise variance of each draw, [draws, candidates, channels], or the same for all
            candidates, [draws, channels].
    """
    scaled = (mean - mean.mean(0)) / np.sqrt(variance.mean(0))
    cover = np.einsum("scd,sce->cde", scaled, scaled) / len(mean)
    return 0.5 * np.linalg.slogdet(np.eye(mean.shape[2]) + cover)[1]


def decision_gain(
    mean: Array, variance: Array, actions: Array, *, outcomes: int = 32, seed: int = 0
) -> tuple[Array, Array]:
    """Expected fall of the entropy of the decision, and effective share of draws, a candidate.

    ``H[p(a)] - E_y H[sum_s w_s 1(a_s = a)]`` with ``w_s`` proportional to
    ``N(y; mean_s, variance_s)``; outcomes y are simulated from ``outcomes`` of the draws.

    Args:
        mean, variance: As in `expected_information`.
        actions: Best action under each draw, [draws].
    """
    generator = np.random.default_rng(seed)
    classes = np.eye(3)[actions]
    before = _entropy(classes.mean(0))
    count = len(mean)
    chosen = generator.choice(count, size=min(outcomes, count), replace=False)
    gain, share = np.empty(mean.shape[1]), np.empty(mean.shape[1])
    of_all = variance if variance.ndim == mean.ndim else variance[:, None]
    spreads = np.broadcast_to(np.sqrt(of_all), mean.shape)
    for c in range(mean.shape[1]):
        spread = spreads[:, c]
        y = mean[chosen, c] + spread[chosen] * generator.standard_normal(spread[chosen].shape)
        square = ((y[:, None] - mean[None, :, c]) / spread) ** 2
        log_weight = -0.5 * square.sum(-1) - np.log(spread).sum(-1)
        weight = np.exp(log_weight - logsumexp(log_weight, axis=1, keepdims=True))
        gain[c] = before - _entropy(weight @ classes).mean()
        share[c] = np.mean(1 / (weight**2).sum(1)) / count
    return gain, share


def next_pilots(
    model: "RegimeModel",
    actions: Array,
    settings: Array,
    load: Array,
    *,
    count: int = 1,
    cost: Array | None = None,
    draws: Any = None,
    seed: int = 0,
) -> list[NextPilot]:
    """The candidates with the largest decision gain per cost, or information where that is unsure.

    A batch is chosen greedily: once a candidate is taken, the draws are weighted as if it had
    given its expected outcome, and the next is scored under them.

    Args:
        model: The fitted model; actions: the best action under each of its draws, [draws].
        draws: Which of the model's draws those are; all by default.
        settings: Candidates, [candidates, knobs]; load: [candidates].
        count: How many; fewer come back where there are fewer candidates.
        cost: Seconds that each candidate takes, [candidates]; by default the median ``wall_s`` of
            the runs, and where the table has none all cost one run.
    """
    if len(settings) == 0:
        raise InputError("no candidate for the next pilot: the list is empty.")
    values, loads = model.points(settings, load)
    co = model.coordinates
    mean = model.surfaces(co.load(loads), co.settings(values))["mean"]
    variance = _run_variance(model, co.load(loads))
    if draws is not None:
        mean, variance = mean[draws], variance[draws]
    unit = "seconds"
    if cost is None:
        known = model.table.cost[np.isfinite(model.table.cost)]
        unit = "seconds" if len(known) else "runs"
        cost = np.full(len(values), float(np.median(known)) if len(known) else 1.0)
    names = [knob.name for knob in model.table.knobs]
    generator = np.random.default_rng(seed)
    left, out = np.arange(len(values)), []
    for _ in range(min(count, len(values))):
        information = expected_information(mean[:, left], variance[:, left])
        gain, share = decision_gain(mean[:, left], variance[:, left], actions, seed=seed)
        sure = bool(np.median(share) >= ENOUGH_ESS)
        by = "decision" if sure and gain.max() > 1e-3 else "information"
        best = int(np.argmax((gain if by == "decision" else information) / cost[left]))
        chosen = left[best]
        out.append(
            NextPilot(
                dict(zip(names, map(float, values[chosen]))),
                float(loads[chosen]),
                float(information[best]),
                float(gain[best]),
                float(cost[chosen]),
                by,
                float(gain.max()),
                unit,
            )
        )
        rows = _fantasy(mean[:, chosen], variance[:, chosen], generator)
        mean, variance, actions = mean[rows], variance[rows], actions[rows]
        left = np.delete(left, best)
    return out


def _run_variance(model: "RegimeModel", x: Array) -> Array:
    """Variance of a run at loads ``x``: misfit and, where runs are repeated, seeds.

    [draws, settings, 3].
    """
    from probcomp.regime.model import seed_scale

    theta = {name: values[:, None] for name, values in model.parameters.items()}
    seeds = np.asarray(seed_scale(theta, x)) ** 2 if model.repeats else 0.0
    return np.broadcast_to(theta["noise"] ** 2 + seeds, (len(model.draws), len(x), 3))


def _fantasy(mean: Array, variance: Array, generator: np.random.Generator) -> Any:
    """Draws, resampled by how well they explain the expected outcome of one candidate."""
    square = (mean - mean.mean(0)) ** 2 / variance
    log_weight = -0.5 * (square + np.log(variance)).sum(-1)
    weight = np.exp(log_weight - logsumexp(log_weight))
    return generator.choice(len(mean), size=len(mean), p=weight / weight.sum())


def should_stop(probability: Array, gain: float) -> bool:
    """Whether to stop running pilots: the decision is sure, or nothing more is to be learnt."""
    return bool(probability.max() >= STOP_CONFIDENCE or gain < STOP_GAIN)


def _entropy(p: Array) -> Array:
    return -(p * np.log(np.maximum(p, 1e-300))).sum(-1)
