r"""Whole experts as units: judged by what the model loses when its routers never choose them.

An expert :math:`e` of a layer is removed by the router score minus infinity, so tokens go to the
others. No read-out tells what that costs, since which experts run changes with it; so it is
measured, as the divergence from the dense predictions in nats (`probcomp.recipes.post_temper`),
each layer by itself:

1. each expert alone;
2. then one after the other, each time the one whose removal on top of those gone measures least.
   What each added when last measured stands for what it would add now; the cheapest by that are
   measured anew until one adds no more than the next did before (Minoux 1978, "Accelerated greedy
   algorithms", lazy evaluation; the bound it needs holds for experts that stand in for each other).
   When `LOOKS` a removal are spent, the cheapest by what is known goes.

For a layer of ``E`` experts of which ``k`` are chosen that takes at most ``E + (LOOKS + 1)(E - k)``
passes over `PostConfig.experts` samples that no removal is tempered on, each from that layer on;
scores take ``E + 1`` more, and tempering up to two, over the samples that are kept back. 64 experts
of which 8 are chosen: 232 passes over 32 samples and 67 over at most 64, a layer. Beside the model
itself there is one copy of it at a time, with what the leaf modules give out on those samples.

The scores of experts are conditional log-odds at the decision, under a Gibbs posterior (Bissiri,
Holmes and Walker 2016, with the measured loss :math:`L` in the place of a likelihood's):

.. math:: \ln\frac{P(s_e = 1 \mid s_{-e})}{P(s_e = 0 \mid s_{-e})}
          = N \bigl( L(s_{-e}, 0) - L(s_{-e}, 1) \bigr) - \lambda c_e N + \text{prior}

with ``N`` calibration units and the other experts as decided, on samples that the order was not
found on. In a layer that keeps as few as its router chooses, none can go: there an expert that
stays is compared with the best of those that went in its place, at no difference in price. Nothing
was validated about these numbers.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import SurgeryError
from probcomp.evidence.fisher import Likelihood
from probcomp.inference.posterior import UnitPosterior
from probcomp.inference.quadratic.beliefs import beliefs
from probcomp.priors.base import SupportPrior
from probcomp.recipes.job import Job
from probcomp.recipes.needed import spread
from probcomp.recipes.post_config import PostConfig, calibration_batches
from probcomp.recipes.post_temper import Meter
from probcomp.recipes.post_units import Judged
from probcomp.recipes.task import Task, Tensors
from probcomp.structure import Axis, Routers, Structure

LOOKS = 2
"""Most experts that are measured anew for a removal, on average over those of a layer."""

CURE = (
    "Whole experts can go where their weights lie in one tensor [experts, ...] that the router's "
    "choice indexes; of experts that are modules of their own the neurons can."
)

Loss = Callable[[Tensor], float]
"""``loss(keep) -> nats`` a unit that a layer loses with the experts of ``keep``, boolean [E]."""


def found_routers(job: Job) -> tuple[tuple[Axis, ...], Routers, list[str]]:
    """The axes of experts among a job's whose routers are found, those, and notes on the others."""
    axes, notes = [], []
    for axis in job.units:
        if axis.kind == "expert":
            try:
                Routers(job.structure, [axis])
            except SurgeryError as error:
                notes.append(f"The experts of {axis.name} all stay: {error}.")
            else:
                axes.append(axis)
    return tuple(axes), Routers(job.structure, axes), notes


def lasting(structure: Structure) -> list[str]:
    """Notes on experts that no cut can remove."""
    return [
        f"The experts of {axis.name} all stay: {axis.blocked}. {CURE}"
        for axis in structure.axes
        if axis.kind == "expert" and axis.blocked
    ]


def judge_experts(
    job: Job,
    config: PostConfig,
    task: Task,
    likelihood: Likelihood | None,
    axes: Sequence[Axis],
    routers: Routers,
    samples: Tensors,
    step: Callable[[str], None],
) -> dict[str, Judged]:
    """Each axis with the order in which its experts would go, and what was measured along it.

    Args:
        job: The job.
        config: The settings; ``experts`` is the number of samples.
        task: How the model is scored, with the likelihood.
        likelihood: The likelihood behind the loss, where it is known.
        axes: Axes of kind ``expert``.
        routers: Theirs.
        samples: Calibration samples; some, evenly over them, are measured on.
        step: Called after each axis.
    """
    if not axes:
        return {}
    chosen = spread(samples, config.experts)
    batches = list(calibration_batches(chosen, config.batch_size))
    keep_outputs = config.limit is None
    meter = Meter(job.model, task, likelihood, batches, {}, replay=keep_outputs, routers=routers)
    judged = {}
    try:
        for axis in axes:
            removals = axis.size - axis.min_keep
            order, loss = removal_order(axis.size, removals, loss_of(meter, axis.name))
            judged[axis.name] = Judged(axis, (), order, loss)
            step(f"judging {axis.name}")
    finally:
        del meter
        gc.collect()  # the copy of the model and its closures hold each other
    return judged


def loss_of(meter: Meter, name: str) -> Loss:
    """The measured loss of one axis's experts as a function of those that stay."""
    return lambda keep: meter.increase({}, {name: keep})


def removal_order(size: int, removals: int, loss: Loss) -> tuple[Tensor, Tensor]:
    """Experts in the order in which they go, and the loss with none, one, two ... of them gone.

    Args:
        size: Experts of the layer.
        removals: How many may go.
        loss: Measures the loss with those that stay; zero for all of them.

    Returns:
        The order, int64 [removals], and losses, float64 [removals + 1].
    """
    stay = torch.ones(size, dtype=torch.bool)

    def without(*gone: int) -> float:
        keep = stay.clone()
        keep[list(gone)] = False
        return loss(keep)

    order: list[int] = []
    curve = [0.0]
    # What each would add to the loss, as last measured, and the loss without it where that is new.
    adds = {e: without(e) for e in range(size)} if removals else {}
    new, left = dict(adds), LOOKS * removals
    while len(order) < removals:
        expert = min(adds, key=lambda e: adds[e])
        while expert not in new and left:
            new[expert] = without(expert)
            adds[expert] = new[expert] - curve[-1]
            expert, left = min(adds, key=lambda e: adds[e]), left - 1
        curve.append(new[expert] if expert in new else without(expert))
        order.append(expert)
        stay[expert] = False
        del adds[expert]
        new.clear()
    return torch.tensor(order, dtype=torch.int64), torch.tensor(curve, dtype=torch.float64)


@dataclass(frozen=True)
class Weighing:
    """What the scores of one axis are made of, beside losses.

    Attributes:
        units: Units of the calibration set.
        price: What an expert costs, nats of the whole calibration set.
        prior: Support prior over the experts in order; none is even odds.
    """

    units: int
    price: float = 0.0
    prior: SupportPrior | None = None


def expert_scores(axis: Axis, keep: Tensor, loss: Loss, weighing: Weighing) -> UnitPosterior:
    """Conditional log-odds of each expert at a decision; see the module's formula.

    Args:
        axis: The axis.
        keep: The decision, boolean [E].
        loss: Measures the loss with those that stay.
        weighing: How nats are weighed.
    """
    here = _measured(keep, loss)
    full = int(keep.sum()) <= axis.min_keep
    evidence = torch.zeros(len(keep), dtype=torch.float64)
    for expert in torch.nonzero(~keep).flatten().tolist():
        back = keep.clone()
        back[expert] = True
        evidence[expert] = weighing.units * (here - _measured(back, loss)) - weighing.price
    for expert in torch.nonzero(keep).flatten().tolist():
        other = keep.clone()
        other[expert] = False
        if full:  # in its place comes the best of those that are gone
            other[int(evidence.masked_fill(keep, -torch.inf).argmax())] = True
        price = 0.0 if full else weighing.price
        evidence[expert] = weighing.units * (_measured(other, loss) - here) - price
    odds, _ = beliefs(weighing.prior, evidence)
    return UnitPosterior(odds, torch.sigmoid(odds))


def _measured(keep: Tensor, loss: Loss) -> float:
    return 0.0 if bool(keep.all()) else loss(keep)


def experts_by_posterior(
    judged: Judged, loss: Loss, weighing: Weighing
) -> tuple[Tensor, UnitPosterior]:
    """Without a budget: experts go while the odds of the next one to go are not in its favour.

    At price zero and even odds those are experts whose removal changes nothing that is measured.
    """
    field = torch.zeros(judged.axis.size, dtype=torch.float64)
    odds, _ = beliefs(weighing.prior, field)
    removed = 0
    for number, expert in enumerate(judged.order.tolist()):
        adds = float(judged.loss[number + 1] - judged.loss[number])
        if weighing.units * adds - weighing.price + float(odds[expert]) > 0:
            break
        removed = number + 1
    keep = judged.keep(removed)
    return keep, expert_scores(judged.axis, keep, loss, weighing)
