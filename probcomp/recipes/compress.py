"""The main job: a network, data and a budget become a smaller network with a posterior."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.allocation import Budget
from probcomp.allocation.counts import check_finite
from probcomp.data import Data
from probcomp.data.batches import Batches
from probcomp.errors import BudgetError, InputError, SurgeryError
from probcomp.evidence.collect import evaluating
from probcomp.inference.training.own_weights import check_plain
from probcomp.kernels import PackedLayer, pack_layers
from probcomp.progress import progress as progress_bar
from probcomp.recipes.coded import BITS_A_WEIGHT, Coded, Trial, code, code_within, least_bits
from probcomp.recipes.counting import macs_on
from probcomp.recipes.describe import dense_bits, describe
from probcomp.recipes.job import Job
from probcomp.recipes.label_free import label_free
from probcomp.recipes.likelihoods import with_targets
from probcomp.recipes.methods import IN_PARAMS, METHODS
from probcomp.recipes.methods import UNIT_KINDS as UNIT_KINDS
from probcomp.recipes.result import Compressed
from probcomp.recipes.task import Task, as_tensors, has_targets, split
from probcomp.structure import Axis, Structure, apply_masks, silence, trace
from probcomp.structure.masks import forget_missing, masks_of
from probcomp.structure.shrink import shrink_report

SURGERY_TOLERANCE = 1e-4
"""Largest difference allowed between masked and shrunk outputs, relative to the outputs' scale;
float32 sums taken in another order differ by about 1e-6."""


def compress(
    model: nn.Module,
    data: Any,
    *,
    budget: Budget | str | None,
    prior: Any = None,
    method: str = "turbo-vbi",
    seed: int = 0,
    loss: Callable[[Any, Any], Tensor] | None = None,
    test: Any = None,
    kinds: tuple[str, ...] | None = None,
    round_to: int = 1,
    config: Any = None,
    checkpoint: Path | str | None = None,
    encode: bool = False,
    progress: bool = True,
    name: str | None = None,
    data_name: str = "",
    command: str | None = None,
) -> Compressed:
    """Compress a network to a budget, with a posterior over what was kept.

    Args:
        model: Any module that `torch.export` can read; it is not changed. Trained or fresh.
        data: Training data: ``(inputs, targets)``, a dict of tensors with ``labels``, a Dataset, a
            DataLoader, or `probcomp.data.Data` with its own test part.
        budget: What may remain, as in ``Budget(params=0.1)`` or ``"params=0.1"``. ``None`` leaves
            the size to methods with a pruning rule of their own.
        prior: Prior of the supports inside each weight matrix; by default the method's own.
        method: Name of the method; ``probcomp methods`` lists them.
        seed: Seed of every random step. The same seed gives the same result.
        loss: ``loss(outputs, targets)``, the mean negative log-likelihood in nats for each sample.
            By default cross-entropy for integer targets, half the squared error for real ones,
            and the model's own loss for dict data.
        test: Data that the report is measured on; by default a tenth of ``data`` is set aside.
        kinds: Kinds of axis whose units may be removed, of ``neuron``, ``channel``, ``head``,
            ``kv_group`` and, where the method judges them, ``expert``; by default all of them.
        round_to: Kept units are rounded up to a multiple of this.
        config: The method's own settings.
        checkpoint: Directory for checkpoints; a run that was stopped goes on from there.
        encode: Whether to write the result as one small file too, with few values a tensor, and to
            measure what is read back (`Compressed.encode` does it later). A budget in bits is one
            of that file, and always has it; ``model`` is then the network in the file.
        progress: Whether to show a bar on standard error, where that is a terminal.
        name: Name of the model in the report.
        data_name: Name of the data in the report.
        command: What makes this result again, for the report.

    Returns:
        The smaller model, the posterior, the structure and the report.

    Raises:
        InputError: Data that do not fit the model, NaN, an unknown method.
        BudgetError: A budget out of range or out of reach, or none where the method needs one.
        TraceError: A model whose structure cannot be read.
        DivergenceError: Training produced values that are not finite.
    """
    budget = Budget.parse(budget) if isinstance(budget, str) else budget
    clock = Clock()
    warnings: list[str] = []
    if isinstance(data, Data):
        test = data.test if test is None else test
        data_name = data_name or data.name
        data = data.train
    train, held, note = _data(data, test, seed)
    warnings += note
    method, note = _road(method, config, train)
    warnings += note
    chosen = METHODS[method]
    if budget is None and not chosen.own_rule:
        raise BudgetError(f"method {method!r} needs a budget, such as Budget(params=0.1)")
    if budget is not None and budget.unit not in chosen.units:
        raise BudgetError(
            f"method {method!r} meets budgets in {', '.join(chosen.units)}, not {budget.unit}"
        )
    kinds = chosen.kinds if kinds is None else tuple(kinds)
    if "expert" in kinds and not chosen.experts:
        able = ", ".join(name for name in METHODS if METHODS[name].experts)
        raise InputError(f"method {method!r} cannot remove whole experts; methods that can: {able}")
    task = Task(loss)
    if not has_targets(train):
        if chosen.data != "calibration" or loss is not None:
            raise InputError(
                f"method {method!r} needs targets: give (inputs, targets), or 'labels' in a dict; "
                "methods for data without targets: turbo-vbi-post"
            )
        found = label_free(model, train, held, seed=seed)
        task, train, held = found.task, found.train, found.held
        warnings.append(found.words)
    batches = Batches(train, shuffle=False)
    check_plain(model)
    dense = copy.deepcopy(model)
    with clock("structure"):
        check_finite(dense.named_parameters(), "parameter")
        _try_once(dense, task, Batches(with_targets(train), shuffle=False))
        structure = trace(dense, task.inputs(batches.example(2)))
        units = removable(structure, kinds)
        if "expert" in kinds:
            from probcomp.recipes.post_experts import lasting

            warnings += lasting(structure)
        uses = macs_on(dense, task, train).uses
        asked, budget = budget, in_params(budget, dense, structure, units)
    with clock("inference"), _bar(method, progress) as on_step:
        job = Job(
            model=dense,
            task=task,
            train=train,
            structure=structure,
            units=units,
            budget=budget,
            asked=asked,
            uses=uses,
            prior=prior,
            config=config,
            seed=seed,
            checkpoint=Path(checkpoint) if checkpoint else None,
            on_step=on_step,
        )
        outcome = chosen.run(job)
    with clock("surgery"):
        masked = apply_masks(copy.deepcopy(outcome.model), dict(outcome.masks))
        structure = outcome.structure or structure
        shrunk = shrink_report(masked, structure, dict(outcome.keep), round_to=round_to)
        small = shrunk.model
        if shrunk.surgery == "graph":
            warnings.append(
                "The smaller model is a graph of operators, without the original classes: "
                f"{shrunk.reason}"
            )
        example = Batches(held, shuffle=False).example(64)
        if any(a.kind == "expert" and not bool(outcome.keep[a.name].all()) for a in units):
            masked = silence(structure, masked, dict(outcome.keep))
        _compare(masked, small, task, example)
    trial = Trial(task, train, seed, trains=chosen.data == "training")
    coded = None
    if encode or (asked is not None and asked.unit == "bits"):
        with clock("coding"):
            coded = _coded(small, trial, asked, dense)
        small = coded.model if asked is not None and asked.unit == "bits" else small
    with clock("packing"):
        fast, layers = packed(small, lambda m: task.run(m, example))
    with clock("measurement"):
        report = describe(
            job=job,
            method=chosen,
            outcome=outcome,
            compressed=small,
            fast=fast,
            packed=layers,
            coded=coded,
            test=held,
            name=name or type(model).__name__,
            data_name=data_name,
            command=command or _call(method, asked, seed),
            warnings=(*warnings, *outcome.warnings),
        )
    report = report.replace(seconds=clock.seconds)
    return Compressed(
        fast, outcome.posterior, structure, report, outcome.masks, outcome.keep, coded, trial
    )


def _coded(model: nn.Module, trial: Trial, asked: Budget | None, dense: nn.Module) -> Coded:
    """The model as one file: of the size asked for, or as small as the training data bear."""
    if asked is not None and asked.unit == "bits":
        return code_within(model, trial, asked.amount(dense_bits(dense)))
    return code(model, trial)


def _road(method: str, config: Any, train: Any) -> tuple[str, list[str]]:
    """Which road Turbo-VBI takes: training, or inference after it."""
    if method != "turbo-vbi" or (has_targets(train) and config is None):
        return method, []
    from probcomp.recipes.post_training import PostConfig

    if has_targets(train) and not isinstance(config, PostConfig):
        return method, []
    why = "its settings are those" if has_targets(train) else "the data have no targets"
    return "turbo-vbi-post", [
        f"Inference after training: {why}, so nothing was trained (method turbo-vbi-post)."
    ]


def in_params(
    budget: Budget | None, model: nn.Module, structure: Structure, units: tuple[Axis, ...]
) -> Budget | None:
    """A budget in ``prunable`` or ``bits`` as the number of parameters that may remain.

    Bits are those of the coded file. How many weights they are worth is an expectation here; the
    values' precision then takes up the rest (`probcomp.recipes.coded.code_within`).
    """
    if budget is None or budget.unit not in IN_PARAMS:
        return budget
    if budget.unit == "bits":
        total = float(sum(p.numel() for p in model.parameters()))
        bits = budget.amount(dense_bits(model))
        least = least_bits(model)
        if bits < least:
            raise BudgetError(
                f"bits={bits:g} is out of reach: the architecture alone takes {least:,}"
            )
        return Budget(params=min(max(bits / BITS_A_WEIGHT, 2.0), total))
    dense, floor = prunable_range(model, structure, units)
    if dense <= floor:
        raise BudgetError("no parameter belongs to a unit that may be removed; name params instead")
    return Budget(params=max(floor + budget.amount(dense - floor), 2.0))


def prunable_range(
    model: nn.Module, structure: Structure, units: tuple[Axis, ...]
) -> tuple[float, float]:
    """Parameters of the dense model, and those that no removable unit owns."""
    from probcomp.structure.terms import size_after

    gone = {axis.var: 0 for axis in units if axis.var is not None}
    dense = floor = 0
    for name, parameter in model.named_parameters():
        dense += parameter.numel()
        dims = structure.holder_terms.get(structure.program.aliases.get(name, name))
        sides = parameter.shape if dims is None else [size_after(d, gone) for d in dims]
        floor += math.prod(sides)
    return float(dense), float(floor)


def removable(structure: Structure, kinds: tuple[str, ...]) -> tuple[Axis, ...]:
    """Axes that may be cut exactly, of the kinds asked for.

    Experts count among them: without them a model equals the dense one with the router score minus
    infinity, not that with weights of zero.
    """
    return tuple(
        axis
        for axis in structure.axes
        if axis.kind in kinds
        and (axis.exact or axis.kind == "expert")
        and not axis.blocked
        and axis.size > axis.min_keep
    )


def packed(
    model: nn.Module, run: Callable[[nn.Module], Any]
) -> tuple[nn.Module, tuple[PackedLayer, ...]]:
    """The model with packed layers where they are faster here, and every layer that was tried."""
    masks = masks_of(model)
    if not any(not bool(mask.all()) for mask in masks.values()):
        return model, ()
    fast = copy.deepcopy(model)
    layers = pack_layers(fast, masks_of(fast), run)
    return (forget_missing(fast) if any(layer.used for layer in layers) else model), layers


class Clock:
    """Wall seconds of named stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


@contextmanager
def _bar(title: str, show: bool) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar whose total is learnt with the first step."""
    stack: list[Any] = []

    def on_step(step: int, total: int, text: str) -> None:
        if not stack:
            bar = progress_bar(title, total, show=show)
            stack.extend((bar, bar.__enter__()))
        stack[1](text)

    try:
        yield on_step
    finally:
        if stack:
            stack[0].__exit__(None, None, None)


def _data(data: Any, test: Any, seed: int) -> tuple[Any, Any, list[str]]:
    train = as_tensors(data)
    if test is not None:
        held = as_tensors(test)
        note = []
    else:
        train, held = split(train, 0.1, seed)
        note = ["No test data were given: a random tenth of the data was set aside for measuring."]
    for part in (train, held):
        Batches(part)  # checks lengths and finite values before any work
    return train, held, note


def _try_once(model: nn.Module, task: Task, batches: Batches) -> None:
    """One loss on two samples, so that data that do not fit the model are told from defects."""
    batch = batches.example(2)
    try:
        with torch.no_grad(), evaluating(model):
            value = task.loss(model, batch)
    except InputError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        inputs = task.inputs(batch)
        named = inputs.items() if isinstance(inputs, dict) else enumerate(inputs)
        shapes = ", ".join(f"{key}: {tuple(t.shape)} {t.dtype}" for key, t in named)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"the model does not run on the data ({shapes}): {reason}") from error
    if value.dim() != 0 or not torch.isfinite(value):
        raise InputError(
            f"the loss of the first samples is {value.tolist()}, expected one finite number"
        )


def _compare(masked: nn.Module, small: nn.Module, task: Task, batch: Any) -> None:
    """Surgery must not change the outputs of the masked model."""
    with torch.no_grad():
        before = task.logits(masked.eval(), batch)
        after = task.logits(small.eval(), batch)
    scale = float(before.abs().max()) or 1.0
    error = float((before - after).abs().max()) / scale
    if not error <= SURGERY_TOLERANCE:
        raise SurgeryError(
            f"the smaller model's outputs differ from the masked model's by {error:.2g} of their "
            "scale; nothing was written. Please report this model."
        )


def _call(method: str, budget: Budget | None, seed: int) -> str:
    wanted = None if budget is None else f"Budget({budget.unit}={budget.value:g})"
    return f"probcomp.compress(model, data, budget={wanted}, method={method!r}, seed={seed})"
