"""Measure a finished compression and write it down as a report."""

import datetime
import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.data.batches import Batches
from probcomp.errors import InputError
from probcomp.evaluation import (
    Comparison,
    compare_accuracy,
    compare_nll,
    compare_with_magnitude,
    layer_sizes,
    magnitude_mask,
    measure_latency,
    predict,
    reliability,
    size_of,
)
from probcomp.evaluation.accuracy import mean_interval
from probcomp.evaluation.estimate import Estimate
from probcomp.evaluation.latency import Latency
from probcomp.evaluation.sizes import Size
from probcomp.evidence.collect import evaluating
from probcomp.evidence.fisher import Categorical, Gaussian
from probcomp.kernels import PackedLayer
from probcomp.recipes.coded import FILE_TOLERANCE, Coded
from probcomp.recipes.counting import macs_notes, macs_on
from probcomp.recipes.job import Job, Outcome
from probcomp.recipes.likelihoods import recognised
from probcomp.recipes.methods import Method
from probcomp.recipes.post_temper import units_of
from probcomp.recipes.task import Task
from probcomp.report import Report
from probcomp.report.pieces import (
    BudgetLine,
    CodedFile,
    CodedRow,
    Histogram,
    MaskPicture,
    Prediction,
    UnitSummary,
)

LATENCY_BATCH = 128
LATENCY_SECONDS = 10.0
"""Time spent on timing, where ten pairs do not take longer."""
PICTURES = 8
"""Most mask pictures and regularity rows in a report; the largest matrices are shown."""


def describe(
    *,
    job: Job,
    method: Method,
    outcome: Outcome,
    compressed: nn.Module,
    fast: nn.Module,
    packed: tuple[PackedLayer, ...],
    coded: Coded | None,
    test: Any,
    name: str,
    data_name: str,
    command: str,
    warnings: tuple[str, ...],
) -> Report:
    """The report of one compression; everything in it is measured here.

    ``fast`` is ``compressed`` with the layers of ``packed`` that are used in place; it is timed.
    """
    dense = job.model
    one, two = (macs_on(m, job.task, job.train) for m in (dense, compressed))
    macs = one.of(dense), two.of(compressed)
    before, after = size_of(dense, macs=round(macs[0])), size_of(compressed, macs=round(macs[1]))
    accuracy, nll, diagrams = _quality(dense, compressed, job, test)
    example = Batches(test, shuffle=False).example(LATENCY_BATCH)
    matrices = {n: m for n, m in outcome.masks.items() if m.dim() >= 2}
    shown = sorted(matrices, key=lambda n: -matrices[n].numel())[:PICTURES]
    shown = [n for n in matrices if n in shown]
    values = dict(dense.named_parameters())
    regularity = tuple(compare_with_magnitude(n, matrices[n], values[n].detach()) for n in shown)
    samples = Batches(job.train).samples
    forecast = outcome.forecast
    return Report(
        model=name,
        method=method.name,
        prior=outcome.prior,
        data=f"{data_name or 'given'} ({samples} training + {Batches(test).samples} test samples)",
        seed=job.seed,
        command=command,
        budget=budget_lines(job, before, after, coded),
        dense=before,
        compressed=after,
        layers=layer_sizes(dense, compressed),
        accuracy=accuracy,
        nll=nll,
        nll_unit=loss_unit(job) if forecast is None else forecast.unit,
        loss=loss_words(job),
        loss_name="half squared distance" if _imitates(job) else "nats",
        cosine=_cosine(compressed, job, test),
        prediction=None
        if forecast is None
        else Prediction(forecast.increase, dict(forecast.by_axis), dict(forecast.temperatures)),
        reliability=diagrams,
        latency=_latency(dense, fast, job.task.inputs(example)),
        packed=packed,
        coded=None if coded is None else _file(coded, job, test),
        regularity=regularity,
        pictures=_pictures(shown, matrices, values, outcome),
        calibrated=outcome.posterior.meta.get("calibrated") is True,
        inclusion=tuple(
            Histogram.of(n, w.probability) for n, w in outcome.posterior.weights.items()
        ),
        units=_units(job, outcome),
        history=outcome.history,
        warnings=(*warnings, *macs_notes(one, two, *macs)),
        versions={p: version(p) for p in ("torch", "numpy", "pyro-ppl", "transformers", "arviz")},
        machine=machine(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def machine() -> dict[str, str]:
    """The machine in words: processor, threads, memory, operating system."""
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
        processor = names[0] if names else processor
    words = {
        "processor": processor,
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        words["memory"] = f"{memory:.0f} GiB"
    return words


def dense_bits(model: nn.Module) -> int:
    """Bits of a model's parameters as they are, in their own data type."""
    return 8 * sum(p.numel() * p.element_size() for p in model.parameters())


def _file(coded: Coded, job: Job, test: Any) -> CodedFile:
    """The coded file, and what is lost by it, on held-out data."""
    accuracy, nll, _ = _quality(job.model, coded.model, job, test)
    return CodedFile(
        bytes=coded.size.bytes,
        dense_bytes=dense_bits(job.model) // 8,
        bits=dict(coded.size.bits),
        tensors=tuple(
            CodedRow(t.name, t.shape, t.nonzero, t.distinct, dict(t.bits))
            for t in coded.size.tensors
        ),
        before=coded.before,
        after=coded.after,
        accuracy=accuracy,
        nll=nll,
    )


def budget_lines(
    job: Job, before: Size, after: Size, coded: Coded | None = None
) -> tuple[BudgetLine, ...]:
    """The budget as it was asked for, beside what came out, with the reason for a difference.

    Empty where the method's own rule decided.
    """
    budget = job.asked or job.budget
    if budget is None:
        return ()
    fixed = 0.0
    if budget.unit == "prunable":
        from probcomp.recipes.compress import prunable_range

        fixed = prunable_range(job.model, job.structure, job.units)[1]
    values = dict(job.model.named_parameters())
    counts = {
        "prunable": (before.params - fixed, after.nonzero - fixed),
        "params": (before.params, after.nonzero),
        "macs": (sum(u * values[n].numel() for n, u in job.uses.items()), after.macs or 0),
        "bits": (dense_bits(job.model), 8 * coded.size.bytes if coded else 8 * after.bytes),
    }
    dense, kept = counts[budget.unit]
    achieved = kept / dense if budget.value <= 1 else float(kept)
    short = 1 - achieved / budget.value
    note = ""
    if short < -1e-9:
        note = "More remains than was asked: parts of the model are not removable."
    elif short > FILE_TOLERANCE and budget.unit == "bits":
        note = f"{short:.0%} less remains than was allowed: finer values would not use it."
    elif short > 0.02:
        note = (
            f"{short:.0%} less remains than was allowed: removing a whole unit also removes "
            "weights that the budget would have kept."
        )
    return (BudgetLine(budget.unit, budget.value, achieved, dense, kept, note),)


def _latency(dense: nn.Module, fast: nn.Module, inputs: Any) -> Latency:
    """Paired timings: 50 pairs of a small network, fewer of a large one, ten at the least."""
    first = measure_latency(dense, fast, inputs, repeats=10, warmup=2)
    one = 1e-3 * (first.dense.median + first.compressed.median)
    affordable = int(LATENCY_SECONDS / max(one, 1e-6))
    if affordable <= first.repeats:
        return first
    return measure_latency(dense, fast, inputs, repeats=min(50, affordable))


def _quality(
    dense: nn.Module, compressed: nn.Module, job: Job, test: Any
) -> tuple[Comparison | None, Comparison | None, tuple[Any, ...]]:
    """Accuracy and likelihood of both models on the same samples."""
    if job.task.criterion is None and job.task.likelihood is None:
        try:
            first, second = predict(dense, test), predict(compressed, test)
        except InputError:  # not a classifier of single labels: its loss is compared instead
            pass
        else:
            diagrams = (reliability("dense", first), reliability("compressed", second))
            return compare_accuracy(first, second), compare_nll(first, second), diagrams
    one, two = losses(dense, job, test), losses(compressed, job, test)
    nll = Comparison(mean_interval(one), mean_interval(two), mean_interval(two - one))
    return None, nll, ()


def scored(job: Job) -> Task:
    """The task of a job, with the likelihood that tells what its loss is a mean over."""
    targets = job.task.targets(job.train if isinstance(job.train, dict) else tuple(job.train))
    if targets is None or targets.is_floating_point() or targets.dim() < 2:
        return job.task
    return replace(job.task, likelihood=recognised(job.task, job.model, job.train))


def loss_unit(job: Job) -> str:
    """What the loss is a mean over: samples, tokens, or positions (pixels) that have a class."""
    task, targets = scored(job), job.task.targets(tuple(job.train))
    if task.likelihood is not None or task.criterion is not None or isinstance(job.train, dict):
        return task.unit
    pixels = targets is not None and not targets.is_floating_point() and targets.dim() > 1
    return "position" if pixels else task.unit


def losses(model: nn.Module, job: Job, test: Any) -> Tensor:
    r"""A term for each test sample whose mean is the loss, [samples], nats.

    Samples :math:`i` with :math:`n_i` tokens and mean loss :math:`l_i` have the loss
    :math:`L = \sum_i n_i l_i / \sum_i n_i`; terms :math:`L + n_i (l_i - L) / \bar n` have its mean
    and the spread of that ratio. Samples without a token that counts are left out.
    """
    task = scored(job)
    with torch.no_grad(), evaluating(model):
        found = [
            (job.task.loss(model, batch).double(), units_of(task, batch))
            for batch in Batches(test, batch_size=1, shuffle=False)(0)
        ]
    each = torch.stack([loss for loss, count in found if count] or [torch.tensor(torch.nan)])
    counts = torch.tensor([count for _, count in found if count], dtype=torch.float64)
    if len(counts) == 0 or bool((counts == counts[0]).all()):
        return each
    mean = (counts * each).sum() / counts.sum()
    return mean + counts / counts.mean() * (each - mean)


def loss_words(job: Job) -> str:
    """What the loss is; its unit is said elsewhere."""
    task = job.task
    if _imitates(job):
        return "squared distance to the dense outputs (over the variance of one coordinate)"
    if isinstance(task.likelihood, Categorical) and task.likelihood.soft:
        return "divergence from the dense model's class probabilities"
    if task.criterion is not None:
        return "loss that was given"
    return "negative log-likelihood"


def _imitates(job: Job) -> bool:
    """Whether the targets are real outputs of the dense model itself."""
    return isinstance(job.task.likelihood, Gaussian)


def _cosine(compressed: nn.Module, job: Job, test: Any) -> Estimate | None:
    """Mean cosine of outputs and targets, where the targets are the dense model's outputs."""
    if not _imitates(job):
        return None
    found = []
    training = compressed.training
    try:
        compressed.eval()
        with torch.no_grad():
            for batch in Batches(test, 32, shuffle=False)(0):
                outputs, targets = job.task.logits(compressed, batch), job.task.targets(batch)
                if targets is None or outputs.dim() < 2 or outputs.shape[1] < 2:
                    return None
                flat = outputs.flatten(1).double(), targets.flatten(1).double()
                found.append(torch.cosine_similarity(*flat))
    finally:
        compressed.train(training)
    return mean_interval(torch.cat(found))


def _pictures(
    shown: list[str], masks: Mapping[str, Tensor], values: Mapping[str, Tensor], outcome: Outcome
) -> tuple[MaskPicture, ...]:
    scores = {n: w.probability for n, w in outcome.posterior.weights.items()}
    return tuple(
        MaskPicture.of(
            n,
            masks[n],
            magnitude_mask(values[n].detach(), masks[n]),
            scores[n] if n in scores and scores[n].shape == masks[n].shape else None,
        )
        for n in shown
    )


def _units(job: Job, outcome: Outcome) -> tuple[UnitSummary, ...]:
    kinds = {axis.name: axis.kind for axis in job.units}
    return tuple(
        UnitSummary.of(name, kinds[name], unit.probability, outcome.keep[name])
        for name, unit in outcome.posterior.units.items()
    )
