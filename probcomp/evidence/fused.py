r"""Read-outs of experts whose weights lie in one tensor: a matrix of its own for each expert.

A tensor ``[E, out, in]`` (or ``[E, in, out]``) is no layer, so nothing can be hooked. What reads it
is seen instead: one product of all experts with rows in the order of the experts
(`torch.nn.functional.grouped_mm`), or a product with the slice of each expert. The read-out of
expert ``e`` is called ``name[e]``, sees the rows that are sent to it, and has statistics as in
`probcomp.evidence.collect`; padded positions count. Gates multiply what it gives out, so they are
in the gradients there, and a token sent to several experts is a row of each: rows of experts add up
as if their errors were independent.

The grouped kernel takes rows of a multiple of 16 bytes alone; see `Fused.multiple`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probcomp.evidence.collect import Probe, Run, Statistics, Sums, evaluating
from probcomp.evidence.matrices import Matrix
from probcomp.evidence.readouts import Readout
from probcomp.evidence.watch import METADATA
from probcomp.structure import Axis

GROUPED = ("_grouped_mm", "grouped_mm", "grouped_mm_fallback")
PRODUCTS = ("linear", "matmul", "mm", "__matmul__", "__rmatmul__")
VIEWS = ("transpose", "t", "T", "mT", "permute", "detach", "to", "contiguous")
ALIGNED = 16
"""Bytes that the rows of a grouped product are a multiple of."""

Rows = Callable[[str, list[tuple[int, slice]], Tensor, Tensor], Tensor]
"""``rows(parameter, [(expert, rows), ...], inputs, output) -> output``."""


def weight_of(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A weight by the name of its read-out: a tensor, or a view of the slice of one expert."""
    parameter, expert = parts(name)
    return tensors[parameter] if expert is None else tensors[parameter][expert]


def parts(name: str) -> tuple[str, int | None]:
    """The parameter of a read-out, and the expert whose slice it is."""
    found = re.fullmatch(r"(.*)\[(\d+)\]", name)
    return (found[1], int(found[2])) if found else (name, None)


@dataclass(frozen=True, eq=False)
class Fused:
    """An axis of neurons that the experts of a layer share.

    Attributes:
        axis: The axis; ``min_keep`` is at least ``multiple``.
        reads: One read-out for each expert.
        multiple: As many units, or a multiple, have to stay for the products to run.
    """

    axis: Axis
    reads: tuple[Readout, ...]
    multiple: int


def fused_readouts(
    model: nn.Module, axes: Iterable[Axis], batch: Any, run: Run
) -> tuple[tuple[Fused, ...], dict[str, str]]:
    """Axes that one tensor of experts reads, and for other axes why they are none.

    Args:
        model: The dense model.
        axes: Axes that no layer reads.
        batch: A batch to watch the model on.
        run: Runs the model on a batch.
    """
    found: list[Fused] = []
    reasons: dict[str, str] = {}
    candidates = {}
    tensors = _tensors(model)
    for axis in axes:
        members = [m for m in axis.members if m.parameter in tensors]
        members = [m for m in members if tensors[m.parameter].dim() > 1]
        last = members[-1] if members else None
        fused = last is not None and all(tensors[m.parameter].dim() == 3 for m in members)
        if fused and last is not None and last.dim > 0 and last.index.shape[1] == 1:
            candidates[axis.name] = (axis, last)
        else:
            reasons[axis.name] = "it has no single tensor [experts, ...] that reads its units"
    if not candidates:
        return (), reasons
    watch = Products(model, [last.parameter for _, last in candidates.values()], _same)
    with evaluating(model), torch.no_grad(), watch:
        run(model, batch)
    for name, (axis, last) in candidates.items():
        parameter, seen = last.parameter, watch.seen.get(last.parameter, set())
        weight = tensors[parameter]
        inputs = weight.shape[last.dim]
        if len(seen) != 1 or not seen <= {"grouped", "sliced"} or inputs != axis.size:
            words = ", ".join(sorted(seen - {"grouped", "sliced"})) or "no product that is known"
            reasons[name] = f"the product with {parameter} ({words})"
            continue
        multiple = max(1, ALIGNED // weight.element_size()) if seen == {"grouped"} else 1
        matrix = Matrix(parameter.rpartition(".")[0], "linear" if last.dim == 2 else "conv1d_hf")
        reads = tuple(
            Readout(name, f"{parameter}[{expert}]", matrix, last.index)
            for expert in range(len(weight))
        )
        least = min(max(axis.min_keep, multiple), axis.size)
        found.append(Fused(replace(axis, min_keep=least), reads, multiple))
    return tuple(found), reasons


def _same(parameter: str, rows: Any, inputs: Tensor, output: Tensor) -> Tensor:
    return output


class Products(TorchFunctionMode):
    """Shows the products with some tensors of experts.

    Args:
        model: The model.
        parameters: Names of the tensors.
        rows: Given each product, gives the output that goes on.

    Attributes:
        seen: By parameter what read it: ``grouped``, ``sliced``, or names of other functions.
    """

    def __init__(self, model: nn.Module, parameters: Iterable[str], rows: Rows) -> None:
        super().__init__()
        self.rows = rows
        self.seen: dict[str, set[str]] = {}
        # Tensors are held, so that their ids are not given away.
        self.tracked: dict[int, tuple[Tensor, str, int | None]] = {}
        tensors = _tensors(model)
        for name in parameters:
            tensor = tensors[name]
            self.tracked[id(tensor)] = (tensor, name, None)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        hits = [self.tracked[id(a)] for a in (*args, *kwargs.values()) if id(a) in self.tracked]
        name = _named(func)
        if not hits or name in METADATA:
            return result
        _, parameter, expert = hits[0]
        if name in VIEWS:
            self.tracked[id(result)] = (result, parameter, expert)
        elif name in ("__getitem__", "select") and expert is None:
            index = args[2] if name == "select" else args[1]
            if isinstance(index, int) or (isinstance(index, Tensor) and index.dim() == 0):
                self.tracked[id(result)] = (result, parameter, int(index))
            else:
                self._saw(parameter, "index")
        elif name in GROUPED and expert is None:
            self._saw(parameter, "grouped")
            ends = (kwargs["offs"] if "offs" in kwargs else args[2]).tolist()
            starts = [0, *ends[:-1]]
            rows = [(e, slice(a, b)) for e, (a, b) in enumerate(zip(starts, ends)) if b > a]
            return self.rows(parameter, rows, args[0], result)
        elif name in PRODUCTS and expert is not None and args[0] is not hits[0][0]:
            self._saw(parameter, "sliced")
            return self.rows(parameter, [(expert, slice(None))], args[0], result)
        else:
            self._saw(parameter, name)
        return result

    def _saw(self, parameter: str, what: str) -> None:
        self.seen.setdefault(parameter, set()).add(what)


def _named(func: Any) -> str:
    """Name of a function, or of the property that it gets."""
    name = getattr(func, "__name__", "")
    return getattr(getattr(func, "__self__", None), "__name__", "") if name == "__get__" else name


def collect_fused(
    model: nn.Module,
    reads: Iterable[Readout],
    batches: Iterable[Any],
    run: Run,
    *,
    probe: Probe | None = None,
    every: int = 1,
    thin: int = 1,
) -> dict[str, Statistics]:
    """Statistics of the read-outs of experts in one pass; see `collect` for the arguments.

    An expert that no token was sent to has sums of zero. One that no probed token was sent to has
    the mean Fisher matrix of its layer.
    """
    chosen = list(reads)
    sums = {read.parameter: Sums(read.matrix, thin) for read in chosen}
    leaves: list[tuple[str, list[tuple[int, slice]], Tensor]] = []
    state = {"probed": False}

    def rows(name: str, where: list[tuple[int, slice]], inputs: Tensor, output: Tensor) -> Tensor:
        for expert, at in where:
            # No batch is named: rows of one expert are not positions that a mask could be laid on.
            sums[f"{name}[{expert}]"].add(
                inputs.detach()[None, at].reshape(1, -1, inputs.shape[-1]), None
            )
        if not state["probed"]:
            return output
        leaf = torch.zeros_like(output).requires_grad_()
        leaves.append((name, where, leaf))
        return output + leaf

    samples = 0
    with evaluating(model):
        for number, batch in enumerate(batches):
            state["probed"] = probe is not None and number % every == 0
            leaves.clear()
            samples += len(next(iter(batch.values())) if isinstance(batch, Mapping) else batch[0])
            watch = Products(model, {parts(n)[0] for n in sums}, rows)
            with torch.set_grad_enabled(state["probed"]), watch:
                outputs = run(model, batch)
            if probe is not None and state["probed"]:
                _backward(probe(outputs, batch), leaves, sums)
    return _results(chosen, sums, samples, _tensors(model), fisher=probe is not None)


def _backward(
    scalars: Any, leaves: list[tuple[str, list[tuple[int, slice]], Tensor]], sums: dict[str, Sums]
) -> None:
    for index, scalar in enumerate(scalars):
        more = index + 1 < len(scalars)
        wanted = [leaf for _, _, leaf in leaves]
        found = torch.autograd.grad(scalar, wanted, retain_graph=more, allow_unused=True)
        for (name, where, leaf), gradient in zip(leaves, found):
            value = torch.zeros_like(leaf) if gradient is None else gradient
            for expert, at in where:
                one = sums[f"{name}[{expert}]"]
                one.add_gradient(value[None, at].reshape(1, -1, value.shape[-1]), None)
                one.probes = len(scalars)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters(remove_duplicate=False))


def _results(
    reads: list[Readout],
    sums: dict[str, Sums],
    samples: int,
    tensors: Mapping[str, Tensor],
    *,
    fisher: bool,
) -> dict[str, Statistics]:
    found = {}
    for read in reads:
        one = sums[read.parameter]
        if one.gram is None:
            inputs = read.matrix.of(weight_of(tensors, read.parameter)).shape[1]
            zero = torch.zeros(inputs, dtype=torch.float64)
            found[read.parameter] = Statistics(torch.outer(zero, zero), zero, 0, samples)
        else:
            found[read.parameter] = one.result(read.parameter, samples)
    if not fisher:
        return found
    for parameter in {parts(name)[0] for name in found}:
        mine = [n for n in found if parts(n)[0] == parameter]
        known = [found[n] for n in mine if found[n].fisher is not None]
        if not known:
            continue
        total = sum((s.fisher for s in known if s.fisher is not None), torch.zeros(()))
        rows = sum((s.probed or 0) for s in known)
        for name in mine:
            if found[name].fisher is None:
                probes = known[0].probes
                found[name] = replace(found[name], fisher=total, probes=probes, probed=rows)
    return found
