"""Do predicted loss increases come true? Random removals of several sizes, without a refit."""

import statistics
from typing import Any

import torch
from _post_networks import outputs
from _post_rows import Prepared
from torch import Tensor

from probcomp.evidence import Statistics, collect, readouts
from probcomp.recipes.compress import UNIT_KINDS, removable
from probcomp.recipes.post_temper import Tempering
from probcomp.structure import Axis, silence

SHARES = (0.02, 0.05, 0.1, 0.2)
"""Shares of the units of every axis that go."""
TRIED = 32
"""Calibration samples on which single axes are tempered."""


def with_fisher(prepared: Prepared, data: tuple[Tensor, ...], seed: int) -> dict[str, Statistics]:
    """Statistics with the output metric: one probe a batch."""
    network = prepared.network
    units = removable(prepared.structure, UNIT_KINDS)
    matrices = {r.parameter: r.matrix for r in readouts(network.model, prepared.structure, units)}
    generator = torch.Generator().manual_seed(seed)
    likelihood = network.likelihood

    def probe(outputs: Any, batch: Any) -> list[Tensor]:
        return [likelihood.probe(outputs, batch[-1], generator)]

    batches = [tuple(t[i : i + 32] for t in data) for i in range(0, len(data[0]), 32)]
    return collect(network.model, matrices, batches, lambda m, b: m(*b[:-1]), probe=probe)


def single_axis_laws(
    prepared: Prepared,
    data: tuple[Tensor, ...],
    seen: dict[str, Statistics],
    units: int,
    generator: torch.Generator,
) -> dict[str, Tempering]:
    """What a predicted nat is worth on each axis: two random removals, measured on its samples.

    Measured is the divergence of the outputs from the dense ones on some calibration samples.
    """
    network = prepared.network
    tried = tuple(t[:TRIED] for t in data)
    dense = outputs(network.model, tried[:-1], 32)
    laws = {}
    for axis in removable(prepared.structure, UNIT_KINDS):
        laws[axis.name] = Tempering()
        for share in (min(SHARES), max(SHARES)):
            keep = {axis.name: random_mask(axis, share, generator)}
            found = outputs(silence(prepared.structure, network.model, keep), tried[:-1], 32)
            measured = float(network.likelihood.divergence(found, dense, tried[-1]))
            laws[axis.name].add(predicted(prepared, seen, keep, units)[axis.name], measured)
    return laws


def random_mask(axis: Axis, share: float, generator: torch.Generator) -> Tensor:
    gone = min(max(1, round(share * axis.size)), axis.size - axis.min_keep)
    keep = torch.ones(axis.size, dtype=torch.bool)
    keep[torch.randperm(axis.size, generator=generator)[:gone]] = False
    return keep


def predicted(
    prepared: Prepared, seen: dict[str, Statistics], keep: dict[str, Tensor], units: int
) -> dict[str, float]:
    r""":math:`\tfrac12 \operatorname{tr}(G \Delta A \Delta^T)` of each axis, nats a unit."""
    model = prepared.network.model
    found = dict.fromkeys(keep, 0.0)
    axes = [a for a in removable(prepared.structure, UNIT_KINDS) if a.name in keep]
    for read in readouts(model, prepared.structure, axes):
        metric = seen[read.parameter].metric
        assert metric is not None
        lost = read.columns[~keep[read.axis]].flatten()
        weight = read.matrix.of(model.get_parameter(read.parameter).detach()).double()
        inner = seen[read.parameter].gram[lost][:, lost]
        change = weight[:, lost]
        found[read.axis] += 0.5 * float(((metric @ change @ inner) * change).sum()) / units
    return found


def predictions(
    prepared: Prepared, data: tuple[Tensor, ...], seed: int, *, masks: int
) -> dict[str, Any]:
    r"""Predicted and measured loss increases of random masks, and the slope after tempering.

    Each axis is tempered by two random removals of its own, measured on calibration samples. What
    several axes cost together is their sum times one factor, fitted on every second mask in
    relative error; the slope is that of measured against tempered predictions on the others. The
    masks are measured on held-out samples.
    """
    network = prepared.network
    axes = removable(prepared.structure, UNIT_KINDS)
    seen = with_fisher(prepared, data, seed)
    with torch.no_grad():
        example = network.model(*(t[:1] for t in data[:-1]))
    example = example if isinstance(example, Tensor) else example.logits
    units = network.likelihood.units(example, data[-1][:1]) * len(data[0])
    generator = torch.Generator().manual_seed(seed)
    laws = single_axis_laws(prepared, data, seen, units, generator)
    points = []
    for number in range(masks):
        share = SHARES[number // 2 % len(SHARES)]
        surely = int(torch.randint(len(axes), (), generator=generator))
        keep = {
            axis.name: random_mask(axis, share, generator)
            for place, axis in enumerate(axes)
            if share >= 0.05 or place == surely or bool(torch.rand((), generator=generator) < 0.3)
        }
        plain = predicted(prepared, seen, keep, units)
        tempered = sum(
            float(laws[name](torch.tensor(value, dtype=torch.float64)))
            for name, value in plain.items()
        )
        measured = network.measure(silence(prepared.structure, network.model, keep))["loss"]
        points.append(
            {
                "share": share,
                "untempered": sum(plain.values()),
                "predicted": tempered,
                "measured": measured - prepared.dense["loss"],
                "fitted": number % 2 == 0,
            }
        )
    # relative errors: every mask counts alike, whatever its size
    ratios = [p["measured"] / p["predicted"] for p in points if p["fitted"]]
    factor = statistics.mean(ratios)
    fresh = [p["measured"] / (factor * p["predicted"]) for p in points if not p["fitted"]]
    return {
        "together": factor,
        "slope": statistics.mean(fresh) if fresh else None,
        "temperatures": {n: law.temperature(law.predicted[-1]) for n, law in laws.items()},
        "points": points,
    }
