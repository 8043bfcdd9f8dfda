"""Do predicted loss increases come true? Random removals of several sizes, without a refit."""

import math
import statistics
from dataclasses import dataclass, replace
from typing import Any

import torch
from _post_networks import outputs
from _post_rows import Prepared
from torch import Tensor

from probcomp.evidence import readouts
from probcomp.evidence.fisher import Categorical
from probcomp.evidence.slopes import Slopes, unit_slopes
from probcomp.recipes.compress import UNIT_KINDS, removable
from probcomp.recipes.post_training import PostConfig
from probcomp.structure import Axis, silence

SHARES = (0.02, 0.05, 0.1, 0.2)
"""Shares of the units of every axis that go."""
TRIED = 32
"""Calibration samples on which the fitted masks are measured."""
BATCH = 32


def slopes(prepared: Prepared, data: tuple[Tensor, ...], seed: int) -> Slopes:
    """Slopes of one probe a sample; a classifier's with the softness of the method."""
    network = prepared.network
    units = removable(prepared.structure, UNIT_KINDS)
    generator = torch.Generator().manual_seed(seed)
    likelihood = network.likelihood
    if isinstance(likelihood, Categorical) and likelihood.unit == "sample":
        likelihood = replace(likelihood, softness=PostConfig().softness)

    def run(model: torch.nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        found = model(*batch[:-1])
        return found if isinstance(found, Tensor) else found.logits

    return unit_slopes(
        network.model,
        readouts(network.model, prepared.structure, units),
        [tuple(t[i : i + BATCH] for t in data) for i in range(0, len(data[0]), BATCH)],
        run,
        lambda found, batch: [likelihood.probe(found, batch[-1], generator)],
        lambda batch: batch[-1].numel() if likelihood.unit == "token" else len(batch[0]),
    )


def random_mask(axis: Axis, share: float, generator: torch.Generator) -> Tensor:
    gone = min(max(1, round(share * axis.size)), axis.size - axis.min_keep)
    keep = torch.ones(axis.size, dtype=torch.bool)
    keep[torch.randperm(axis.size, generator=generator)[:gone]] = False
    return keep


def random_masks(
    axes: tuple[Axis, ...], count: int, generator: torch.Generator
) -> list[tuple[float, dict[str, Tensor]]]:
    """Share and mask: of all axes, or for the smallest share of some of them."""
    masks = []
    for number in range(count):
        share = SHARES[number // 2 % len(SHARES)]
        surely = int(torch.randint(len(axes), (), generator=generator))
        keep = {
            axis.name: random_mask(axis, share, generator)
            for place, axis in enumerate(axes)
            if share >= 0.05 or place == surely or bool(torch.rand((), generator=generator) < 0.3)
        }
        masks.append((share, keep))
    return masks


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

    Predicted is the Gauss-Newton form in the units (`probcomp.evidence.slopes`). Tempering is one
    power law for all masks, fitted on every second one, by its divergence from the dense outputs on
    a few calibration samples. The others are measured on held-out samples; the slope is that of
    measured on tempered predictions, in relative error, with its standard error over them (that of
    the law is not in it).
    """
    network = prepared.network
    axes = tuple(removable(prepared.structure, UNIT_KINDS))
    found = slopes(prepared, data, seed)
    tried = tuple(t[:TRIED] for t in data)
    dense = outputs(network.model, tried[:-1], BATCH)
    points = []
    generator = torch.Generator().manual_seed(seed)
    for number, (share, keep) in enumerate(random_masks(axes, masks, generator)):
        model, fitted = silence(prepared.structure, network.model, keep), number % 2 == 0
        if fitted:
            new = outputs(model, tried[:-1], BATCH)
            measured = float(network.likelihood.divergence(new, dense, tried[-1]))
        else:
            measured = network.measure(model)["loss"] - prepared.dense["loss"]
        points.append(
            {
                "share": share,
                "untempered": found.loss(keep),
                "measured": measured,
                "fitted": fitted,
            }
        )
    return {"points": points, **judged(points)}


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
        "slope_untempered": statistics.mean(plain),
        "correlation_of_logarithms": statistics.correlation(*logs),
    }
