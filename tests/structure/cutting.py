"""Shared checks of the structure tests: silenced dense model against cut graph."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from probcomp.structure import Axis, Structure, cut_graph

# The two models do the same sums in another order, in float64.
EXACT = 1e-10


def tensors(result: Any) -> list[Tensor]:
    """All tensors of a result."""
    if isinstance(result, dict) or hasattr(result, "to_tuple"):
        result = dict(result.items())
    return [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]


def run(model: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        return tensors(model(**inputs) if isinstance(inputs, dict) else model(*inputs))


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """Largest relative difference between two results."""
    assert len(a) == len(b)
    return max(float((s - t).norm() / t.norm().clamp_min(1e-300)) for s, t in zip(a, b))


def some_units(axis: Axis, seed: int = 0) -> Tensor:
    """Drop about a third of the units, at least one, and respect ``min_keep``."""
    keep = torch.ones(axis.size, dtype=torch.bool)
    drop = max(1, min(round(axis.size / 3), axis.size - axis.min_keep))
    keep[torch.randperm(axis.size, generator=torch.Generator().manual_seed(seed))[:drop]] = False
    return keep


def free(structure: Structure) -> list[Axis]:
    """Axes that can lose a unit."""
    return [a for a in structure.axes if a.blocked is None and a.min_keep < a.size]


def check_axes(structure: Structure, model: nn.Module, *inputs: Any) -> None:
    """Each exact axis alone, then all of them together: silenced equals cut, and it matters.

    ``inputs`` are several example inputs; the graph was traced on the first.
    """
    dense = [run(model, x) for x in inputs]
    together: dict[str, Tensor] = {}
    for axis in free(structure):
        keep = {axis.name: some_units(axis)}
        cut, silent = cut_graph(structure, model, keep), structure.silence(model, keep)
        assert sum(p.numel() for p in cut.parameters()) == structure.cost(keep).params
        error = max(distance(run(cut, x), run(silent, x)) for x in inputs)
        if axis.exact:
            assert error < EXACT, axis.name
            if axis.kind != "layer":
                together.update(keep)
        else:
            assert axis.inexact_because, axis.name
        moved = max(distance(run(silent, x), d) for x, d in zip(inputs, dense))
        assert moved > 1e-6, f"silencing {axis.name} changes nothing, so the test proves nothing"
    cut, silent = cut_graph(structure, model, together), structure.silence(model, together)
    for x in inputs:
        assert distance(run(cut, x), run(silent, x)) < EXACT
