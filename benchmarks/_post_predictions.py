"""Do predicted loss increases come true? Random removals of several sizes, without a refit."""

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from _post_networks import outputs
from _post_rows import Prepared
from torch import Tensor

from probcomp.evidence import readouts
from probcomp.evidence.fisher import Categorical
from probcomp.evidence.responses import linear_responses
from probcomp.evidence.slopes import unit_slopes
from probcomp.recipes.compress import UNIT_KINDS, removable
from probcomp.recipes.post_temper import slope
from probcomp.structure import Axis, silence

SHARES = (0.02, 0.05, 0.1, 0.2)
"""Shares of the units of every axis that go."""
TRIED = 32
"""Calibration texts on which the fitted masks are measured; of samples with one class, all are."""
BATCH = 32
DEAR = 0.02
"""Nats; units whose own removal is predicted to cost a classifier more are removed to see."""
RESOLVED = 1 / 50
"""Share of what guessing costs below which masks are passed over too, where samples have one class:
the loss of 4,000 of them is known to a fifth of that."""
MOST_DRAWS = 20
"""Masks drawn at most, over those wanted."""

Predict = Callable[[dict[str, Tensor]], float]
"""Units that stay to the loss increase, nats."""


def one_class(prepared: Prepared) -> bool:
    """Whether a sample has one class and nothing else."""
    likelihood = prepared.network.likelihood
    return isinstance(likelihood, Categorical) and likelihood.unit == "sample"


def in_batches(data: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    return [tuple(t[i : i + BATCH] for t in data) for i in range(0, len(data[0]), BATCH)]


def run(model: torch.nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    found = model(*batch[:-1])
    return found if isinstance(found, Tensor) else found.logits


def by_slopes(prepared: Prepared, data: tuple[Tensor, ...], seed: int) -> Predict:
    """The Gauss-Newton form in the units, of one probe a sample."""
    network = prepared.network
    generator = torch.Generator().manual_seed(seed)
    likelihood = network.likelihood
    units = removable(prepared.structure, UNIT_KINDS)
    return unit_slopes(
        network.model,
        readouts(network.model, prepared.structure, units),
        in_batches(data),
        run,
        lambda found, batch: [likelihood.probe(found, batch[-1], generator)],
        lambda batch: batch[-1].numel() if likelihood.unit == "token" else len(batch[0]),
    ).loss


def by_responses(prepared: Prepared, data: tuple[Tensor, ...]) -> Predict:
    """Responses of the few outputs of a classifier; of units that cost much, measured alone."""
    network = prepared.network
    units = {axis.name: axis for axis in removable(prepared.structure, UNIT_KINDS)}
    reads = readouts(network.model, prepared.structure, units.values())

    def divergence(new: Tensor, dense: Tensor) -> Tensor:
        return network.likelihood.divergence(new, dense, data[-1])

    def without(axis: str, unit: int) -> Tensor:
        keep = torch.ones(units[axis].size, dtype=torch.bool)
        keep[unit] = False
        return outputs(silence(prepared.structure, network.model, {axis: keep}), data[:-1], BATCH)

    found = linear_responses(network.model, reads, in_batches(data), run)
    found = found.measured(DEAR, divergence, without)
    return lambda keep: found.loss(keep, divergence)


def random_mask(axis: Axis, share: float, generator: torch.Generator) -> Tensor:
    gone = min(max(1, round(share * axis.size)), axis.size - axis.min_keep)
    keep = torch.ones(axis.size, dtype=torch.bool)
    keep[torch.randperm(axis.size, generator=generator)[:gone]] = False
    return keep


def random_masks(
    axes: tuple[Axis, ...], generator: torch.Generator
) -> Iterator[tuple[float, dict[str, Tensor]]]:
    """Share and mask, without end: of all axes, or for the smallest share of some of them."""
    number = 0
    while True:
        share = SHARES[number // 2 % len(SHARES)]
        surely = int(torch.randint(len(axes), (), generator=generator))
        keep = {
            axis.name: random_mask(axis, share, generator)
            for place, axis in enumerate(axes)
            if share >= 0.05 or place == surely or bool(torch.rand((), generator=generator) < 0.3)
        }
        yield share, keep
        number += 1


def bounds(prepared: Prepared, data: tuple[Tensor, ...]) -> tuple[float, float]:
    """Least and most predicted nats of masks that are used.

    A classifier that has lost more than guessing costs has nothing of use to lose; where samples
    have one class, what is far below that is lost in the noise of the held-out loss.
    """
    if not isinstance(prepared.network.likelihood, Categorical):
        return 0.0, math.inf
    first = tuple(t[:1] for t in data[:-1])
    most = math.log(outputs(prepared.network.model, first, 1).shape[-1])
    return (RESOLVED * most if one_class(prepared) else 0.0), most


def chosen_masks(
    axes: tuple[Axis, ...], predict: Predict, within: tuple[float, float], count: int, seed: int
) -> tuple[list[tuple[float, dict[str, Tensor], float]], int]:
    """The first random masks with predictions within bounds, and how many others were drawn.

    Each is share, mask and prediction; what is measured has no part in the choice.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen: list[tuple[float, dict[str, Tensor], float]] = []
    others = 0
    for share, keep in random_masks(axes, generator):
        if len(chosen) == count or others + len(chosen) == MOST_DRAWS * count:
            break
        predicted = predict(keep)
        if within[0] <= predicted <= within[1]:
            chosen.append((share, keep, predicted))
        else:
            others += 1
    return chosen, others


@dataclass(frozen=True)
class Law:
    r"""What a predicted nat is worth: :math:`L = e^\alpha q^\rho`, least squares in logarithms.

    Attributes:
        constant: ``alpha``, raised so that predictions are unbiased in relative error.
        power: ``rho``; 1 is a quadratic loss.
    """

    constant: float
    power: float

    @classmethod
    def of(cls, predicted: list[float], measured: list[float]) -> "Law":
        x, y = [math.log(q) for q in predicted], [math.log(m) for m in measured]
        power, constant = statistics.linear_regression(x, y)
        plain = cls(constant, power)
        bias = statistics.mean(m / plain(q) for q, m in zip(predicted, measured))
        return cls(constant + math.log(bias), power)

    def __call__(self, predicted: float) -> float:
        return math.exp(self.constant) * predicted**self.power


def predictions(
    prepared: Prepared, data: tuple[Tensor, ...], seed: int, *, masks: int
) -> dict[str, Any]:
    r"""Predicted and measured loss increases of random masks, and the slope after tempering.

    Predicted is the Gauss-Newton form in the units (`probcomp.evidence.slopes`); of classifiers of
    single samples the responses of their outputs (`probcomp.evidence.responses`). Masks that leave
    a classifier worse than guessing are passed over, see `bounds`. Tempering is one power law for
    all masks, fitted on every second one, by its divergence from the dense outputs on calibration
    samples. The others are measured on held-out samples; the slope is that of measured on tempered
    predictions, in relative error, with its standard error over them (that of the law is not in
    it), and once more in nats (``slope_through_zero``).
    """
    network = prepared.network
    axes = tuple(removable(prepared.structure, UNIT_KINDS))
    single = one_class(prepared)
    predict = by_responses(prepared, data) if single else by_slopes(prepared, data, seed)
    within = bounds(prepared, data)
    chosen, others = chosen_masks(axes, predict, within, masks, seed)
    tried = data if single else tuple(t[:TRIED] for t in data)
    dense = outputs(network.model, tried[:-1], BATCH)
    points = []
    for number, (share, keep, predicted) in enumerate(chosen):
        model, fitted = silence(prepared.structure, network.model, keep), number % 2 == 0
        if fitted:
            new = outputs(model, tried[:-1], BATCH)
            measured = float(network.likelihood.divergence(new, dense, tried[-1]))
        else:
            measured = network.measure(model)["loss"] - prepared.dense["loss"]
        points.append(
            {
                "share": share,
                "untempered": predicted,
                "measured": measured,
                "fitted": fitted,
            }
        )
    return {"points": points, "passed_over": others, **judged(points)}


def judged(points: list[dict[str, Any]]) -> dict[str, Any]:
    """The law of the fitted points, and what the others say about it; adds ``predicted``."""
    fitted = [p for p in points if p["fitted"]]
    law = Law.of([p["untempered"] for p in fitted], [p["measured"] for p in fitted])
    for point in points:
        point["predicted"] = law(point["untempered"])
    fresh = [p for p in points if not p["fitted"]]
    ratios = [p["measured"] / p["predicted"] for p in fresh]
    plain = [p["measured"] / p["untempered"] for p in fresh]
    logs = [[math.log(max(p[key], 1e-12)) for p in fresh] for key in ("untempered", "measured")]
    return {
        "power": law.power,
        "slope": statistics.mean(ratios),
        "slope_error": statistics.stdev(ratios) / math.sqrt(len(ratios)),
        "slope_through_zero": slope(
            [p["predicted"] for p in fresh], [p["measured"] for p in fresh]
        ),
        "slope_untempered": statistics.mean(plain),
        "correlation_of_logarithms": statistics.correlation(*logs),
    }
