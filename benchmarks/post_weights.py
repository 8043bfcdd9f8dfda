"""Single weights removed after training, without tuning: ours beside magnitude, Wanda and OBS.

A small character-level Llama, the same calibration samples for every method, half of the weights of
its linear layers removed (the embedding stays). Baselines keep the same share of every layer:
``magnitude`` the largest weights; ``wanda`` in each row the largest ``|w|`` times the norm of its
input (Sun et al. 2024); ``obs`` the largest ``w^2 / (2 [H^-1]_jj)`` of one inverse Hessian of the
dense activations (Hassibi and Stork 1993), and then each row's least squares on its mask. "our
refit" decides by a baseline's rule on the pruned prefix, with our sequential refit; against ours it
says what our choice is worth. ``scale=1`` is ours with the calibration data's own nats.

    PROBCOMP_DATA=... probcomp bench post_weights --seeds 2
"""

import argparse
import copy
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _post_networks import cache_directory, language_model
from _post_rows import Prepared
from torch import Tensor

from probcomp.allocation import Budget
from probcomp.errors import ProbcompError
from probcomp.evidence.collect import collect
from probcomp.evidence.watch import bias_places
from probcomp.inference.quadratic import Quadratic
from probcomp.inference.quadratic.likelihood import inverse
from probcomp.priors import Lattice, NofM
from probcomp.recipes.describe import machine
from probcomp.recipes.job import Job
from probcomp.recipes.post_config import calibration_batches
from probcomp.recipes.post_weights import WeightsConfig, run
from probcomp.recipes.post_weights_decide import choose
from probcomp.recipes.post_weights_layers import layers_of
from probcomp.recipes.post_weights_refit import dense_quadratic, refit_rows, settle_all, write
from probcomp.storage import write_json

Rule = Callable[[Quadratic], Tensor]
"""The mask of a layer's quadratic; half of its weights stay."""


def magnitude(quadratic: Quadratic) -> Tensor:
    return choose(quadratic.weight.abs(), None, quadratic.weight.numel() // 2)


def wanda(quadratic: Quadratic) -> Tensor:
    scores = quadratic.weight.abs() * quadratic.gram.diagonal().sqrt()
    best = scores.argsort(dim=-1, descending=True)[:, : quadratic.size // 2]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True)


def obs(quadratic: Quadratic) -> Tensor:
    spread = inverse(quadratic.precision, torch.zeros_like(quadratic.weight[0])).diagonal()
    return choose(quadratic.weight.square() / spread, None, quadratic.weight.numel() // 2)


def one_shot(job: Job, rule: Rule, *, adjust: bool) -> torch.nn.Module:
    """Decided on the dense activations; refitted to them, or left."""
    layers, config = layers_of(job), WeightsConfig()
    batches = list(calibration_batches(job.train, config.batch_size))
    seen = collect(job.model, layers.matrices, batches, job.task.run)
    model = copy.deepcopy(job.model)
    for name, matrix in layers.matrices.items():
        weight = matrix.of(job.model.get_parameter(name).detach())
        quadratic = dense_quadratic(weight, seen[name], config, centred=False)
        write(
            model, name, matrix, refit_rows(quadratic, rule(quadratic), adjust=adjust), None, None
        )
    return model


def sequential(job: Job, rule: Rule) -> torch.nn.Module:
    """Decided and refitted on the pruned prefix, as ours."""
    layers, config = layers_of(job), WeightsConfig()
    model = copy.deepcopy(job.model)
    batches = list(calibration_batches(job.train, config.batch_size))
    places = bias_places(job.model, layers.matrices, batches[0], job.task.run)
    settle_all(
        job, config, layers.matrices, model, places, None, lambda name, q: rule(q), lambda: batches
    )
    return model


def ours(job: Job) -> tuple[torch.nn.Module, dict[str, Any]]:
    outcome = run(job)
    assert outcome.forecast is not None
    masks = outcome.masks.values()
    kept = sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)
    return outcome.model, {"kept": kept, "predicted": outcome.forecast.increase}


ROWS: dict[str, Callable[[Job], Any]] = {
    "magnitude": lambda job: one_shot(job, magnitude, adjust=False),
    "wanda": lambda job: one_shot(job, wanda, adjust=False),
    "obs": lambda job: one_shot(job, obs, adjust=True),
    "magnitude, our refit": lambda job: sequential(job, magnitude),
    "wanda, our refit": lambda job: sequential(job, wanda),
    "obs, our refit": lambda job: sequential(job, obs),
    "ours": ours,
    "ours, scale=1": lambda job: ours(replace(job, config=WeightsConfig(scale=1.0))),
    "ours, 2:4": lambda job: ours(replace(job, prior=NofM(2, 4))),
    "ours, lattice": lambda job: ours(replace(job, prior=Lattice(0.0, 1.0))),
}


def main() -> None:
    """Run all rows, or those named, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="calibration draws")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--held", type=int, default=256, help="held-out windows, the last ones")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    try:
        data = Path(os.environ.get("PROBCOMP_DATA", "data"))
        network = language_model(data, cache_directory(), options.held, 0, 12)
        prepared = Prepared.of(network)
        total = sum(p.numel() for p in network.model.parameters())
        found: list[dict[str, Any]] = []
        for seed in range(options.seeds):
            samples = network.calibration(options.samples, seed)
            job = prepared.job(samples, Budget(params=float(total)), None, seed)
            linear = layers_of(job).matrices
            weights = sum(network.model.get_parameter(n).numel() for n in linear)
            job = replace(job, budget=Budget(params=float(total - weights // 2)))
            for name in options.rows:
                start = time.process_time()
                made = ROWS[name](job)
                model, facts = made if isinstance(made, tuple) else (made, {"kept": 0.5})
                seconds = time.process_time() - start
                loss = network.measure(model)["loss"] - prepared.dense["loss"]
                row = {"row": name, "seed": seed, "loss_increase": loss, "seconds": seconds}
                found.append(row | facts)
                print(found[-1], flush=True)
    except ProbcompError as error:
        parser.error(str(error))
    summary = {
        name: statistics.mean(r["loss_increase"] for r in found if r["row"] == name)
        for name in options.rows
    }
    record = {
        "command": " ".join(["probcomp bench post_weights", *sys.argv[1:]]),
        "machine": machine(),
        "network": network.about,
        "dense": prepared.dense,
        "removed": 0.5,
        "unit": "nats a character, held out",
        "rows": found,
        "mean_loss_increase": summary,
    }
    write_json(options.out / "post_weights.json", record)
    for name, value in summary.items():
        print(f"{name:24s} {value:8.4f}")


if __name__ == "__main__":
    main()
