"""Single weights removed after training, without tuning: ours beside magnitude, Wanda and OBS.

A small character-level Llama, or the MiniLM encoder, the same calibration samples for every method,
half of the weights of the linear layers removed (embeddings stay). Baselines keep the same share of
every layer: ``magnitude`` the largest weights; ``wanda`` in each row the largest ``|w|`` times the
norm of its input (Sun et al. 2024); ``obs`` the largest ``w^2 / (2 [H^-1]_jj)`` of one inverse
Hessian of the dense activations (Hassibi and Stork 1993), and then each row's least squares on its
mask. "our refit" decides by a baseline's rule on the pruned prefix, with our sequential refit;
against ours it says what our choice is worth. ``scale=1`` is ours with the calibration data's own
nats.

Beside the loss increase on the last windows of the held-out text there is the one on all of it, and
the divergence of the outputs from the dense ones. The last windows are of another kind than the
rest: there the dense model is far too sure of itself, and what blurs its outputs lowers the loss.
Errors are those of the mean over windows, ranges those over seeds. Layers are decided one after the
other on the pruned prefix, so that one weight decided otherwise changes others behind it; that is
less than the error over windows.

    PROBCOMP_DATA=... probcomp bench post_weights --seeds 2
    PROBCOMP_DATA=... probcomp bench post_weights --network minilm --samples 64 --seeds 1
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
from _post_networks import Network, cache_directory, language_model, minilm, outputs
from _post_rows import Prepared
from torch import Tensor

from probcomp.allocation import Budget
from probcomp.errors import ProbcompError
from probcomp.evidence.collect import collect, evaluating
from probcomp.evidence.lockstep import Targets
from probcomp.evidence.watch import bias_places, watched
from probcomp.inference.quadratic import Quadratic
from probcomp.inference.quadratic.likelihood import inverse
from probcomp.priors import Lattice, NofM
from probcomp.recipes.describe import machine
from probcomp.recipes.job import Job
from probcomp.recipes.post_config import calibration_batches
from probcomp.recipes.post_weights import WeightsConfig, run
from probcomp.recipes.post_weights_decide import choose
from probcomp.recipes.post_weights_layers import layers_of
from probcomp.recipes.post_weights_refit import dense_quadratic, refit_rows, settle_all
from probcomp.recipes.post_weights_refit import write as write_layer
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
        write_layer(
            model, name, matrix, refit_rows(quadratic, rule(quadratic), adjust=adjust), None, None
        )
    return model


def sequential(job: Job, rule: Rule) -> torch.nn.Module:
    """Decided and refitted on the pruned prefix, as ours."""
    layers, config = layers_of(job), WeightsConfig()
    model = copy.deepcopy(job.model)
    batches = list(calibration_batches(job.train, config.batch_size))
    places = bias_places(job.model, layers.matrices, batches[0], job.task.run)
    targets = Targets(layers.matrices)
    with (
        watched(job.model, layers.matrices, residual=True) as watching,
        evaluating(job.model),
        torch.no_grad(),
    ):
        recording = targets.recording(watching, job.task.run)
        for batch in batches:
            recording(job.model, batch)
    settle_all(
        job,
        config,
        layers.matrices,
        model,
        places,
        targets,
        lambda name, q: rule(q),
        lambda: batches,
    )
    return model


def ours(job: Job) -> tuple[torch.nn.Module, dict[str, Any]]:
    outcome = run(job)
    assert outcome.forecast is not None
    masks = outcome.masks.values()
    kept = sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)
    meta = outcome.posterior.meta
    facts = {"kept": kept, "predicted": outcome.forecast.increase, "scale": meta["scale"]}
    return outcome.model, facts


def whole_text(name: str, data: Path, directory: Path | None) -> Network:
    """The network with all of its held-out text."""
    if name == "minilm":
        return minilm(data, directory, 128)
    return language_model(data, cache_directory(), 10**6, 0, 12)


def standard_error(values: Tensor) -> float:
    """Of the mean, over windows."""
    return float(values.std() / len(values) ** 0.5)


class Judge:
    """Measures a model on held-out samples: the last ones, and all of them."""

    def __init__(self, network: Network, held: int) -> None:
        self.network, self.held = network, min(held, len(network.held[0]))
        self.dense = outputs(network.model, network.held[:-1], 32)
        self.losses = self._losses(self.dense)

    def _losses(self, found: Tensor) -> Tensor:
        """Loss of each sample."""
        likelihood, targets = self.network.likelihood, self.network.held[-1]
        each = [likelihood.loss(found[n : n + 1], targets[n : n + 1]) for n in range(len(found))]
        return torch.stack(each).double()

    def __call__(self, model: torch.nn.Module) -> dict[str, float]:
        found = outputs(model, self.network.held[:-1], 32)
        more = self._losses(found) - self.losses
        last = slice(-self.held, None)
        targets = self.network.held[-1][last]
        divergence = self.network.likelihood.divergence(found[last], self.dense[last], targets)
        return {
            "loss_increase": float(more[last].mean()),
            "loss_increase_error": standard_error(more[last]),
            "loss_increase_all": float(more.mean()),
            "loss_increase_all_error": standard_error(more),
            "divergence": float(divergence),
        }


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
    parser.add_argument("--network", default="char-llama", choices=["char-llama", "minilm"])
    parser.add_argument("--model-dir", type=Path, help="directory of the encoder's weights")
    parser.add_argument("--seeds", type=int, default=2, help="calibration draws")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--held", type=int, default=256, help="held-out windows, the last ones")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    try:
        data = Path(os.environ.get("PROBCOMP_DATA", "data"))
        network = whole_text(options.network, data, options.model_dir)
        prepared, judge = Prepared.of(network), Judge(network, options.held)
        total = sum(p.numel() for p in network.model.parameters())
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
                row = {"row": name, "seed": seed, "seconds": seconds, **judge(model), **facts}
                found.append(row)
                print(row, flush=True)
                write(options, network, judge, found)
    except ProbcompError as error:
        parser.error(str(error))


def by_row(
    found: list[dict[str, Any]], keys: tuple[str, ...], summary: Callable[[list[float]], Any]
) -> dict[str, dict[str, Any]]:
    """Each figure of each row, over the seeds."""
    names = dict.fromkeys(r["row"] for r in found)
    return {k: {n: summary([r[k] for r in found if r["row"] == n]) for n in names} for k in keys}


def write(
    options: argparse.Namespace, network: Network, judge: Judge, found: list[dict[str, Any]]
) -> None:
    """The record, after each row."""
    keys = ("loss_increase", "loss_increase_all", "divergence")
    record = {
        "command": " ".join(["probcomp bench post_weights", *sys.argv[1:]]),
        "machine": machine(),
        "network": network.about,
        "dense": {
            "loss": float(judge.losses[-judge.held :].mean()),
            "loss_all": float(judge.losses.mean()),
        },
        "held": {"last": judge.held, "all": len(judge.losses)},
        "removed": 0.5,
        "unit": f"nats a {network.likelihood.unit}, held out",
        "rows": found,
        "mean": by_row(found, keys, statistics.mean),
        "range": by_row(found, keys, lambda values: [min(values), max(values)]),
    }
    suffix = "" if options.network == "char-llama" else f"_{options.network}"
    write_json(options.out / f"post_weights{suffix}.json", record)


if __name__ == "__main__":
    main()
