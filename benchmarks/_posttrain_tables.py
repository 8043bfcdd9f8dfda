"""Tables of accuracy and calibration for `posttrain_scaling`."""

import functools
import math
from typing import Any

import torch
from torch import Tensor

from probcomp.evaluation.regularity import measure_regularity
from probcomp.inference.learning import learn_lattice
from probcomp.inference.quadratic import GroupFactor, ep_group, ep_layers, ep_shared, refit
from probcomp.priors import Independent, Lattice
from probcomp.testing.calibration import calibration
from probcomp.testing.quadratic import (
    enumerate_groups,
    enumerate_weights,
    group_teacher,
    weight_teacher,
)

FRESH = 3000
"""First seed of the teachers that judge calibration; lower ones were seen in the making."""


def top(score: Tensor, count: int) -> Tensor:
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[score.flatten().topk(count).indices] = True
    return mask.view(score.shape)


def iterations_needed() -> dict[str, Any]:
    """Largest distance to the fixed point and to exact probabilities, by iterations."""
    counts = (1, 2, 3, 4, 6, 8, 10, 12, 15, 20)
    groups = [
        group_teacher(rows=24, slab=100.0, correlation=c, seed=s)
        for c in (0.0, 1.0, 4.0)
        for s in range(4)
    ]
    weights = [weight_teacher(correlation=c, seed=s) for c in (0.0, 1.0, 2.0) for s in range(2)]
    table: dict[str, Any] = {"iterations": counts}
    for name, teachers in (("groups_8x3", groups), ("weights_24x9", weights)):
        fixed, exact = [], []
        for teacher in teachers:
            if name == "groups_8x3":
                run = functools.partial(ep_group, [teacher.factor], tolerance=1e-12)
                truth = enumerate_groups([teacher.factor]).probability
            else:
                run = functools.partial(
                    ep_shared,
                    teacher.quadratic,
                    slab=teacher.slab,
                    spike=teacher.spike,
                    learn=False,
                    tolerance=1e-12,
                )
                truth = enumerate_weights(teacher)
            end = run(iterations=100).probability
            path = [run(iterations=n).probability for n in counts]
            fixed.append([float((p - end).abs().max()) for p in path])
            exact.append([float((p - truth).abs().max()) for p in path])
        table[name] = {
            "worst_to_fixed_point": [max(column) for column in zip(*fixed)],
            "worst_to_exact": [max(column) for column in zip(*exact)],
        }
        print(name, [round(x, 4) for x in table[name]["worst_to_exact"]], flush=True)
    return table


def calibrations() -> list[dict[str, Any]]:
    """Fourteen settings, two of layers that differ, and what estimates of each alone give.

    ``known``: with the density and precisions that made the teachers; ``learnt``: with neither,
    groups by `ep_layers` over all layers of the setting; ``each layer alone``: by EM.
    """
    rows = []
    for size, tokens in ((64, 200), (128, 400), (256, 600)):
        teacher = weight_teacher(
            rows=64, size=size, tokens=tokens, density=0.3, correlation=1.0, seed=FRESH + size
        )
        known = ep_shared(
            teacher.quadratic, prior=Independent(0.3), slab=25.0, spike=2500.0, learn=False
        )
        learnt = ep_shared(teacher.quadratic, prior=Independent(0.5))
        for name, result in (("known", known), ("learnt", learnt)):
            rows.append(
                {"supports": f"weights 64 x {size}", "parameters": name, "first_seed": FRESH + size}
                | vars(calibration(result.probability, teacher.support))
            )
    for groups, width, outputs, tokens, seeds, spread in (
        (64, 1, 8, 200, 32, 0.0),
        (256, 1, 8, 600, 8, 0.0),
        (64, 4, 4, 500, 32, 0.0),
        (32, 8, 2, 500, 64, 0.0),
        (64, 1, 8, 200, 32, 0.5),
    ):
        slab = 400.0 if groups != 64 or width > 1 else 200.0
        rows += group_rows(
            groups, width, outputs, tokens, range(FRESH, FRESH + seeds), slab, spread
        )
    for row in rows:
        print(
            f"{row['supports']:41} {row['parameters']:16} ECE {row['ece']:.3f} Brier "
            f"{row['brier']:.3f} expected/true {row['ratio']:.2f} open {row['middle']:.2f}"
        )
    return rows


def group_rows(
    groups: int,
    width: int,
    outputs: int,
    tokens: int,
    seeds: range,
    slab: float,
    spread: float,
) -> list[dict[str, Any]]:
    """One setting of `calibrations`; with a spread every layer has its own density and slab.

    The density's log-odds and the slab's logarithm are then normal, of that deviation.
    """
    teachers, densities = [], []
    for seed in seeds:
        own = spread * torch.randn(2, generator=torch.Generator().manual_seed(10**6 + seed))
        densities.append(0.4 if spread == 0 else float(torch.sigmoid(own[0] - 0.405)))
        teachers.append(
            group_teacher(
                groups=groups, width=width, rows=outputs, tokens=tokens, correlation=1.0,
                density=densities[-1], slab=slab * math.exp(float(own[1])), seed=seed,
            )
        )  # fmt: skip
    free = [[GroupFactor(t.quadratic, t.columns)] for t in teachers]
    found = {
        "known": [
            ep_group([t.factor], prior=Independent(d)).probability
            for t, d in zip(teachers, densities)
        ],
        "learnt": [r.probability for r in ep_layers(free)],
        "each layer alone": [
            ep_group(f, prior=Independent(0.5), learn=True, iterations=60).probability for f in free
        ],
    }
    truth = torch.cat([t.support for t in teachers])
    name = f"groups {groups} of {width}, {len(seeds)} layers{', each its own' if spread else ''}"
    return [
        {"supports": name, "parameters": parameters, "first_seed": seeds[0]}
        | vars(calibration(torch.cat(probability), truth))
        for parameters, probability in found.items()
    ]


def blobs(seed: int) -> Tensor:
    """48 x 64 white noise smoothed over three sites, its highest quarter."""
    generator = torch.Generator().manual_seed(seed)
    field = torch.randn(1, 1, 48, 64, generator=generator, dtype=torch.double)
    kernel = torch.exp(-0.5 * (torch.arange(-9, 10, dtype=torch.double) / 3) ** 2)
    field = torch.nn.functional.conv2d(field, kernel.view(1, 1, -1, 1), padding=(9, 0))
    field = torch.nn.functional.conv2d(field, kernel.view(1, 1, 1, -1), padding=(0, 9))[0, 0]
    return field > field.flatten().quantile(0.75)


def coupling(tokens: int = 400) -> dict[str, dict[str, float]]:
    """Layers whose support is blobs: what a lattice gains at equal non-zeros, five seeds."""
    sums: dict[str, dict[str, list[float]]] = {}
    for seed in range(5):
        support = blobs(seed)
        teacher = weight_teacher(support=support, tokens=tokens, correlation=1.0, seed=100 + seed)
        quadratic, count = teacher.quadratic, int(support.sum())
        saliency = quadratic.weight.square() / torch.linalg.inv(quadratic.precision).diagonal()
        scores = {
            "magnitude": (quadratic.weight.abs(), None),
            "OBS, one shot": (saliency, None),  # no updates between removals
        }
        single = ep_shared(quadratic, prior=Independent(0.25))
        scores["no coupling"] = (single.log_odds, single.probability)
        for cap in (1.0, 1.5):
            result = ep_shared(
                quadratic,
                prior=Lattice(-1.1, 0.5),
                learn=functools.partial(learn_lattice, max_coupling=cap),
                on_unreliable="ignore",
            )
            scores[f"coupling up to {cap}"] = (result.log_odds, result.probability)
        for name, (score, probability) in scores.items():
            mask = top(score, count)
            error = (refit(quadratic, mask, slab=25.0) - teacher.truth).square().sum()
            values = {
                "support_accuracy": float((mask == support).double().mean()),
                "clusters": float(measure_regularity(mask).clusters),
                "relative_error_of_refitted_weights": float(error / teacher.truth.square().sum()),
            }
            if probability is not None:
                values["brier"] = calibration(probability, support).brier
            for key, value in values.items():
                sums.setdefault(name, {}).setdefault(key, []).append(value)
    table = {n: {k: sum(v) / len(v) for k, v in values.items()} for n, values in sums.items()}
    for name, values in table.items():
        print(f"{name:18}", {k: round(v, 3) for k, v in values.items()})
    return table
