"""Do predicted loss increases come true? Random removals of several sizes, without a refit."""

import statistics
from typing import Any

import torch
from _post_rows import Prepared
from torch import Tensor

from probcomp.evidence import Statistics, collect, readouts
from probcomp.recipes.compress import UNIT_KINDS, removable
from probcomp.structure import silence

SHARES = (0.02, 0.05, 0.1, 0.2)
"""Shares of the units of every axis that go."""


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


def predictions(
    prepared: Prepared, data: tuple[Tensor, ...], seed: int, *, masks: int
) -> dict[str, Any]:
    r"""Predicted and measured loss increases of random masks, and the slope after tempering.

    The prediction is :math:`\tfrac12 \operatorname{tr}(G \Delta A \Delta^T)` summed over read-outs
    and divided by the number of loss units. A temperature is fitted on every second mask by least
    squares through the origin, in relative error; the slope is that of measured against tempered
    predictions on the others.
    """
    network = prepared.network
    axes = removable(prepared.structure, UNIT_KINDS)
    reads = readouts(network.model, prepared.structure, axes)
    seen = with_fisher(prepared, data, seed)
    parameters = dict(network.model.named_parameters())
    weights = {r.parameter: r.matrix.of(parameters[r.parameter].detach()).double() for r in reads}
    with torch.no_grad():
        example = network.model(*(t[:1] for t in data[:-1]))
    units = network.likelihood.units(example, data[-1][:1]) * len(data[0])
    generator = torch.Generator().manual_seed(seed)
    points = []
    for number in range(masks):
        share = SHARES[number // 2 % len(SHARES)]
        keep = {}
        surely = int(torch.randint(len(axes), (), generator=generator))
        for place, axis in enumerate(axes):
            gone = min(max(1, round(share * axis.size)), axis.size - axis.min_keep)
            order = torch.randperm(axis.size, generator=generator)
            keep[axis.name] = torch.ones(axis.size, dtype=torch.bool)
            lucky = bool(torch.rand((), generator=generator) < 0.3)
            if share >= 0.05 or lucky or place == surely:
                keep[axis.name][order[:gone]] = False
        predicted = 0.0
        for read in reads:
            metric = seen[read.parameter].metric
            assert metric is not None
            lost = read.columns[~keep[read.axis]].flatten()
            change = weights[read.parameter][:, lost]
            inner = seen[read.parameter].gram[lost][:, lost]
            predicted += 0.5 * float(((metric @ change @ inner) * change).sum())
        measured = network.measure(silence(prepared.structure, network.model, keep))["loss"]
        points.append(
            {
                "share": share,
                "predicted": predicted / units,
                "measured": measured - prepared.dense["loss"],
                "fitted": number % 2 == 0,
            }
        )
    # relative errors: every mask counts alike, whatever its size
    ratios = [p["measured"] / p["predicted"] for p in points if p["fitted"]]
    factor = statistics.mean(ratios)
    fresh = [p["measured"] / (factor * p["predicted"]) for p in points if not p["fitted"]]
    return {
        "temperature": 1 / factor if factor else None,
        "slope": statistics.mean(fresh) if fresh else None,
        "points": points,
    }
