"""From scores of units to a decision that meets a budget, for methods that only rank.

Every such method gives each unit a key; the units of the smallest keys go, until what remains fits
the budget. Costs are those of joint removals: where both sides of a matrix shrink, a weight is
counted once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from probcomp.errors import BudgetError, InputError
from probcomp.recipes.job import Job
from probcomp.structure import Axis
from probcomp.structure.terms import size_after


@dataclass(frozen=True, eq=False)
class _Size:
    """The size of one dimension by the units that stay; a search asks for the same ones often."""

    term: Any
    axes: tuple[tuple[Any, str], ...]
    known: dict[tuple[int | None, ...], int]

    @classmethod
    def of(cls, term: Any, names: Mapping[Any, str]) -> "_Size":
        dense = size_after(term, {})
        mine = tuple((v, n) for v, n in names.items() if size_after(term, {v: 0}) != dense)
        return cls(term, mine, {})

    def after(self, counts: Mapping[str, int]) -> int:
        key = tuple(counts.get(name) for _, name in self.axes)
        if key not in self.known:
            kept = {v: counts[name] for v, name in self.axes if name in counts}
            self.known[key] = size_after(self.term, kept)
        return self.known[key]


@dataclass(frozen=True, eq=False)
class Spending:
    """What a model costs in the unit of its budget, by the units that stay.

    Attributes:
        axes: The axes whose units may go.
        dense: Cost of the dense model.
        allowed: What may remain.
    """

    axes: tuple[Axis, ...]
    dense: float
    allowed: float
    _idle: float
    _terms: tuple[tuple[float, tuple["_Size", ...]], ...]

    @classmethod
    def of(cls, job: Job, axes: Sequence[Axis] | None = None) -> "Spending":
        """The budget of a job: stored parameters, or multiply-accumulates of weights.

        Args:
            job: The job.
            axes: Those of its axes that may lose units; by default all.

        Raises:
            BudgetError: No budget, or one in another unit.
        """
        budget = job.budget
        if budget is None or budget.unit not in ("params", "macs"):
            raise BudgetError(f"units are removed to a budget in params or macs, got {budget}")
        sizes = {name: p.numel() for name, p in job.model.named_parameters()}
        price = dict.fromkeys(sizes, 1.0) if budget.unit == "params" else dict(job.uses)
        known = job.structure.holder_terms
        aliases = job.structure.program.aliases
        chosen = tuple(axes or job.units)
        # Without an expert as many rows are multiplied: those sent to it go to others.
        spared = ("expert",) if budget.unit == "macs" else ()
        names = {a.var: a.name for a in chosen if a.var is not None and a.kind not in spared}
        known_sizes: dict[Any, _Size] = {}
        terms: dict[tuple, float] = {}  # tensors of the same sizes are counted together
        idle = 0.0
        for name, value in price.items():
            dims = known.get(aliases.get(name, name))
            for term in dims or ():
                if term not in known_sizes:
                    known_sizes[term] = _Size.of(term, names)
            if dims is None or not any(known_sizes[term].axes for term in dims):
                idle += value * sizes[name]
            else:
                terms[tuple(dims)] = terms.get(tuple(dims), 0.0) + value
        dense = sum(value * sizes[name] for name, value in price.items())
        merged = tuple((v, tuple(known_sizes[t] for t in dims)) for dims, v in terms.items())
        return cls(chosen, dense, budget.amount(dense), idle, merged)

    def cost(self, counts: Mapping[str, int]) -> float:
        """Cost with ``counts`` units of each axis; axes not named stay whole."""
        return self._idle + sum(
            value * prod(size.after(counts) for size in dims) for value, dims in self._terms
        )

    @property
    def prunable(self) -> float:
        """Cost of everything that goes with some unit."""
        return self.dense - self.cost({axis.name: 0 for axis in self.axes})

    def unit_cost(self, axis: Axis) -> float:
        """What removing one unit saves while everything else stays."""
        return self.dense - self.cost({axis.name: axis.size - 1})


def remove_lowest(spending: Spending, keys: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the units of the smallest keys until the rest fits the budget.

    The least number of units goes. What the last one freed beyond need is spent again on the
    removed units of the largest keys that fit. Ties are resolved by the order of the axes.

    Args:
        spending: The budget.
        keys: For each axis a number per unit, ``[G]``; the smallest go first.

    Returns:
        Axis name to booleans, true where the unit stays.

    Raises:
        InputError: Keys that are missing, not finite, or of another length.
        BudgetError: The budget is out of reach.
    """
    axes = spending.axes
    for axis in axes:
        if axis.name not in keys or keys[axis.name].shape != (axis.size,):
            raise InputError(f"axis {axis.name!r} needs {axis.size} keys")
        if bool(keys[axis.name].isnan().any()):
            raise InputError(f"the keys of axis {axis.name!r} hold NaN")
    order = _order(axes, keys)
    sizes = {axis.name: axis.size for axis in axes}

    def counts(removed: int) -> dict[str, int]:
        left = dict(sizes)
        for name, _ in order[:removed]:
            left[name] -= 1
        return left

    least = spending.cost(counts(len(order)))
    if least > spending.allowed:
        raise BudgetError(
            f"with every removable unit gone {least:,.0f} remains, but the budget allows "
            f"{spending.allowed:,.0f}; other parts of the model are not removable"
        )
    low, high = 0, len(order)  # the smallest number removed that fits
    while low < high:
        middle = (low + high) // 2
        if spending.cost(counts(middle)) <= spending.allowed:
            high = middle
        else:
            low = middle + 1
    keep = {axis.name: torch.ones(axis.size, dtype=torch.bool) for axis in axes}
    for name, unit in order[:low]:
        keep[name][unit] = False
    _spend_the_rest(spending, keep, order[:low])
    return keep


def _order(axes: Sequence[Axis], keys: Mapping[str, Tensor]) -> list[tuple[str, int]]:
    """Units that may go, smallest key first; each axis keeps its ``min_keep`` largest."""
    entries: list[tuple[float, int, str, int]] = []
    for number, axis in enumerate(axes):
        value = keys[axis.name].double()
        ranked = torch.sort(value, stable=True).indices.tolist()
        free = ranked[: max(0, axis.size - axis.min_keep)]
        entries += [(float(value[unit]), number, axis.name, unit) for unit in free]
    entries.sort(key=lambda e: (e[0], e[1]))
    return [(name, unit) for _, _, name, unit in entries]


def _spend_the_rest(
    spending: Spending, keep: dict[str, Tensor], removed: Sequence[tuple[str, int]]
) -> None:
    """Put units back, largest keys first, while they fit; in place."""
    counts = {name: int(mask.sum()) for name, mask in keep.items()}
    full: set[str] = set()
    for name, unit in reversed(removed):
        if name in full:
            continue
        more = counts | {name: counts[name] + 1}
        if spending.cost(more) > spending.allowed:
            full.add(name)  # the units of an axis all cost the same
            if len(full) == len(counts):
                break
            continue
        counts = more
        keep[name][unit] = True


def fractions(scores: Tensor) -> Tensor:
    """Keys for the same share of every axis: the rank of each unit over the size, in (0, 1)."""
    ranks = torch.empty(len(scores), dtype=torch.float64)
    order = torch.sort(scores, stable=True).indices
    ranks[order] = torch.arange(len(scores), dtype=torch.float64)
    return (ranks + 0.5) / len(scores)
