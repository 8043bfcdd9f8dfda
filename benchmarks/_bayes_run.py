"""One run of the benchmark: compress, code, read back, measure."""

import copy
import dataclasses
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _bayes_settings import BATCH_SIZE, TEACHER, fresh
from torch import Tensor, nn
from torch.nn import functional as F

from probcomp.allocation.counts import weight_macs
from probcomp.coding import Quantised, coarsest, coded_size, decode, encode, tune
from probcomp.coding.csr import csr_bytes
from probcomp.coding.quantise import RELATIVE_PRICES
from probcomp.data import Batches, Data
from probcomp.evaluation import measure_regularity
from probcomp.inference.baselines import IterativeConfig
from probcomp.inference.baselines.magnitude import magnitude
from probcomp.inference.baselines.precision import layer_bits
from probcomp.inference.training.distillation import distilled
from probcomp.recipes import METHODS, Compressed, compress
from probcomp.recipes.job import Job, Outcome
from probcomp.recipes.magnitude import METHOD as MAGNITUDE
from probcomp.recipes.magnitude import affordable
from probcomp.recipes.needed import needed

TOLERANCE = 0.1
"""Percentage points of training error that quantisation may cost."""
FINER = 2.0**-10
"""Highest price, relative squared error for each bit, of a second file: quantised as finely as
published significands (10 bits or so), for what the first file's coarseness costs."""
CODING_SAMPLES = 10_000
"""Training samples that codebooks are tuned and measured on."""
SHOWN = 4
"""Weight matrices whose regularity is kept, the largest."""


def error(model: nn.Module, part: Any, samples: int | None = None) -> float:
    """Errors in percent."""
    x, y = part[0][:samples], part[1][:samples]
    with torch.no_grad():
        wrong = sum(
            int((model(a).argmax(1) != b).sum()) for a, b in zip(x.split(1000), y.split(1000))
        )
    return 100 * wrong / len(x)


def mean_nll(model: nn.Module, part: Any) -> float:
    """Mean negative log-likelihood, nats for each sample."""
    total = 0.0
    with torch.no_grad():
        for a, b in zip(part[0].split(1000), part[1].split(1000)):
            total += float(F.cross_entropy(model(a), b, reduction="sum"))
    return total / len(part[0])


def execute(
    network: str,
    model: nn.Module,
    data: Data,
    method: str,
    budget: str | None,
    config: Any,
    seed: int,
    epochs: int,
    checkpoint: Path,
) -> dict[str, Any]:
    """The record of one run."""
    if method == "magnitude":
        method, config = short_magnitude(epochs), None
    start, cpu = time.perf_counter(), time.process_time()
    result = compress(
        model,
        data,
        budget=budget,
        method=method,
        seed=seed,
        config=config,
        checkpoint=None if isinstance(config, IterativeConfig) else checkpoint,  # it has none
        progress=False,
    )
    seconds = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    # In full precision and bit for bit, so that another code can be tried without training again.
    encode(result.model, checkpoint.with_suffix(".pcw"))
    record = sizes(network, model, result, data)
    record["dense_error"] = error(model, data.test)
    record["error"] = error(result.model.eval(), data.test)
    record["coding"] = code(network, result.model, data, seed)
    fine = tuple(price for price in RELATIVE_PRICES if price <= FINER)
    record["finer"] = code(network, result.model, data, seed, fine)
    record["bits_back"] = bits_back(result, data, record["coding"]["bits"]["mask"])
    record["precision"] = precision(model, result)
    record["regularity"] = regularity(result)
    record["seconds"] = seconds
    record["warnings"] = list(result.report.warnings)
    return record


def short_magnitude(epochs: int) -> str:
    """Magnitude pruning with as many refit epochs as the other methods train; its name."""
    name = f"magnitude, {epochs} epochs"

    def run(job: Job) -> Outcome:
        names = list(job.uses)
        found = magnitude(
            job.model,
            Batches(job.train, batch_size=BATCH_SIZE, seed=job.seed),
            loss=distilled(job.task.loss, job.model, share=TEACHER),
            nonzeros=affordable(job, names),
            names=names,
            seed=job.seed,
            epochs=epochs,
        )
        keep = {axis.name: needed(axis, found.masks, job.model) for axis in job.units}
        return Outcome(model=found.model, masks=found.masks, keep=keep)

    if name not in METHODS:
        METHODS.add(name, dataclasses.replace(MAGNITUDE, name=name, run=run))
    return name


def sizes(network: str, model: nn.Module, result: Compressed, data: Data) -> dict[str, Any]:
    """Kept sizes and ratios; weights, without biases and norms, as in the literature."""
    x = data.train[0][:2]
    small = dict(result.model.named_parameters())
    dense = {n: p for n, p in model.named_parameters() if p.dim() > 1}
    weights = {n: p for n, p in small.items() if p.dim() > 1}
    count = sum(p.numel() for p in dense.values())
    kept = sum(int(p.count_nonzero()) for p in weights.values())
    # Positions that a weight is applied to do not change when units go.
    uses = weight_macs(model, lambda m: m(x), 2)
    macs = sum(uses[n] * p.numel() for n, p in dense.items())
    lines = {n: alive(p) for n, p in weights.items()}
    units = [f"{lines[n][0]}" for n in lines][:-1]
    if network == "lenet-300-100":
        units = [str(lines["fc1.weight"][1]), *units]
    elif network == "lenet-5-caffe":
        units.insert(2, str(lines["fc1.weight"][1]))
    rectangle = {n: r * c * math.prod(weights[n].shape[2:]) for n, (r, c) in lines.items()}
    return {
        "sizes": "-".join(units),
        "weights": count,
        "nonzero": kept,
        "params_ratio": count / max(kept, 1),
        "architecture_ratio": count / max(sum(rectangle.values()), 1),
        "macs_ratio": macs
        / max(sum(uses[n] * int(p.count_nonzero()) for n, p in weights.items()), 1),
        "dense_macs_ratio": macs / max(sum(uses[n] * rectangle[n] for n in weights), 1),
    }


def alive(weight: Tensor) -> tuple[int, int]:
    """Rows and columns (output and input units) that hold a non-zero."""
    used = weight.detach().flatten(2).any(2) if weight.dim() > 2 else weight.detach() != 0
    return int(used.any(1).sum()), int(used.any(0).sum())


def code(
    network: str,
    model: nn.Module,
    data: Data,
    seed: int,
    prices: tuple[float, ...] = RELATIVE_PRICES,
) -> dict[str, Any]:
    """Quantise, tune, write, read back, and measure what was read."""
    part = tuple(t[:CODING_SAMPLES] for t in data.train)
    batches = Batches(part, BATCH_SIZE, seed)

    def finish(quantised: Quantised) -> Quantised:
        return tune(quantised, batches, epochs=1)

    model = model.eval()
    start = time.process_time()
    choice = coarsest(model, lambda m: error(m, part), TOLERANCE, finish=finish, prices=prices)
    final = choice.quantised
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pcw"
        size = encode(final.model, path)
        if size.bytes != os.path.getsize(path):
            raise AssertionError("the size stated is not that of the file")
        # A graph of operators has names of its own; it is read into an emptied copy of itself.
        target = fresh(network)
        if list(target.state_dict()) != list(final.model.state_dict()):
            target = copy.deepcopy(final.model)
            for parameter in target.parameters():
                nn.init.zeros_(parameter)
        back = decode(path, target)
        first, second = final.model.state_dict(), back.state_dict()
        if not all(torch.equal(first[n], second[n]) for n in second):
            raise AssertionError("the file does not read back to the same model")
    dense = 4 * sum(p.numel() for p in fresh(network).parameters())
    csr = csr_bytes(final)
    return {
        "bytes": size.bytes,
        "file_ratio": dense / size.bytes,
        "bits": size.bits,
        "float32_bytes": coded_size(model).bytes,
        "csr_bytes": csr,
        "codebook": {n: int(b.numel()) for n, b in final.books.items()},
        "nonzero": sum(int((i >= 0).sum()) for n, i in final.index.items() if i.dim() > 1),
        "price": choice.price,
        "within_tolerance": choice.within,
        "training_error_before": choice.before,
        "training_error": choice.after,
        "error": error(back.eval(), data.test),
        "cpu_seconds": time.process_time() - start,
    }


def bits_back(result: Compressed, data: Data, mask_bits: float) -> dict[str, Any] | None:
    """Description length of labels and weights, -ln p(D|w) + KL(q || p), in bits.

    Where the method leaves a posterior of its weights: the decision's mask at the length of its
    code, and for each weight that stays the divergence of its Gaussian from one of the layer's mean
    square. Otherwise the divergence that the method itself ended training with, over all weights
    and under its own prior, which may be improper: such figures are known up to a constant only.
    """
    likelihood = len(data.train[0]) * mean_nll(result.model, data.train) / math.log(2)
    posterior = {n: w for n, w in result.posterior.weights.items() if n in result.masks}
    if posterior:
        nats = 0.0
        for name, weight in posterior.items():
            kept = result.masks[name]
            variance = weight.variance[kept].double()
            square = weight.mean[kept].double().square() + variance
            slab = square.mean()
            nats += float(0.5 * (square / slab - 1 - (variance / slab).log()).sum())
        return {"data": likelihood, "weights": nats / math.log(2), "mask": mask_bits, "of": "kept"}
    divergence = result.report.history.get("kl")
    if not divergence or not math.isfinite(divergence[-1]):
        return None
    return {"data": likelihood, "weights": divergence[-1] / math.log(2), "mask": 0.0, "of": "all"}


def precision(model: nn.Module, result: Compressed) -> dict[str, Any] | None:
    """Bits of the weights that stay from posterior variances, and the ratio without any index."""
    given = result.posterior.meta.get("bits")
    kept = {n: int(m.sum()) for n, m in result.masks.items() if m.dim() > 1}
    bits: dict[str, int] = {}
    if isinstance(given, dict):
        bits = {n: int(b["total"]) for n, b in given.items()}
    else:
        for name, weight in result.posterior.weights.items():
            if name in result.masks and weight.variance is not None:
                mask = result.masks[name]
                bits[name] = layer_bits(weight.mean, weight.variance, mask)["total"]
    if set(bits) < set(kept):
        return None
    total = sum(kept[n] * max(bits[n], 1) for n in kept)
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    return {"bits": {n: bits[n] for n in kept}, "ratio": 32 * weights / max(total, 1)}


def regularity(result: Compressed) -> dict[str, Any]:
    """Figures of the largest weight masks."""
    masks = {n: m for n, m in result.masks.items() if m.dim() > 1}
    largest = sorted(masks, key=lambda n: -masks[n].numel())[:SHOWN]
    rows = {}
    for name in (n for n in masks if n in largest):
        figures = dataclasses.asdict(measure_regularity(masks[name]))
        figures |= {f"fill_{b['side']}": b["fill"] for b in figures.pop("blocks")}
        rows[name] = {
            k: (float(v) if isinstance(v, np.floating) else v) for k, v in figures.items()
        }
    return rows
