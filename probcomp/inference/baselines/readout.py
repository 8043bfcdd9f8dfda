"""From scores to a decision: masks of weights, and the units that can be cut out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import BudgetError
from probcomp.inference.matrices import given_out
from probcomp.inference.posterior import Posterior
from probcomp.inference.training.readout import unit_masks
from probcomp.inference.training.units import Slot, UnitGroup, slots

Spent = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], float]
"""``spent(masks, keep)``: what a decision costs."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A budget as the readout sees it.

    Attributes:
        spent: What a decision costs.
        allowed: The most it may cost.
    """

    spent: Spent
    allowed: float


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What a baseline found.

    Attributes:
        model: Dense-shaped, with the deterministic network's values, zero outside the masks.
        masks: Weight name to booleans of its shape.
        keep: Axis name to booleans [size].
        history: Series over the epochs.
        posterior: For a method whose supports have probabilities; empty otherwise.
        meta: JSON values: the rule, its threshold, bits of precision.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    keep: dict[str, Tensor]
    history: dict[str, list[float]]
    posterior: Posterior = field(default_factory=Posterior)
    meta: dict[str, Any] = field(default_factory=dict)


def settle(
    model: nn.Module, masks: Mapping[str, Tensor], units: Sequence[UnitGroup]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Units that some kept weight reads, and the masks without the weights of the others.

    A unit that nobody reads can be cut without changing the function. Its own weights go with it,
    which may leave units before it unread, so this repeats until nothing changes.

    Args:
        model: Gives the shapes, what each of its weights reads, and the values of those without a
            mask.
        masks: Weight name to booleans of its shape.
        units: Groups of units that may be removed.

    Returns:
        Masks and kept units.
    """
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    shapes |= {name: tuple(b.shape) for name, b in model.named_buffers()}
    gates = slots(units, shapes)
    keep = {group.name: torch.ones(group.size, dtype=torch.bool) for group in units}
    readers = _readers(model, gates)
    # A weight without a mask reads what it is not zero at.
    alive = {n: model.get_parameter(n).detach() != 0 for n in readers} | dict(masks)
    while True:
        before = sum(int(k.sum()) for k in keep.values())
        for group in units:
            keep[group.name] = _still_read(group, alive, readers, keep[group.name])
        whole = unit_masks(keep, gates, shapes)
        alive = {name: mask & whole.get(name, torch.tensor(True)) for name, mask in alive.items()}
        if sum(int(k.sum()) for k in keep.values()) == before:
            return {name: alive[name] for name in masks}, keep


def _readers(model: nn.Module, gates: Mapping[str, Sequence[Slot]]) -> dict[str, tuple[Slot, ...]]:
    """For each parameter that reads units, the gates on what it reads."""
    parameters = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    found = {
        name: tuple(slot for slot in gates[name] if not given_out(model, p, slot.dim))
        for name, p in parameters.items()
        if gates[name]
    }
    return {name: entries for name, entries in found.items() if entries}


def _still_read(
    group: UnitGroup,
    alive: Mapping[str, Tensor],
    readers: Mapping[str, Sequence[Slot]],
    kept: Tensor,
) -> Tensor:
    """Which of the kept units of a group some weight reads, [size]; all where none is known to.

    Never fewer than the group must keep.
    """
    mine = [(alive[n], s) for n, entries in readers.items() for s in entries
            if s.group == group.name]  # fmt: skip
    if not mine:
        return kept
    read = torch.zeros(group.size, dtype=torch.bool)
    for mask, slot in mine:
        here = slot.index[mask.movedim(slot.dim, 0).flatten(1).any(1)]
        read[here[here >= 0]] = True
    read &= kept
    least = min(max(int(getattr(group, "min_keep", 1)), 1), group.size)
    spare = torch.nonzero(kept & ~read).flatten()[: max(0, least - int(read.sum()))]
    read[spare] = True
    return read


def cut(
    scores: Mapping[str, Tensor],
    thresholds: Mapping[str, float],
    decide: Callable[[Mapping[str, Tensor]], tuple[dict[str, Tensor], dict[str, Tensor]]],
    limit: Limit | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """Keep what scores above the published threshold, or as much as a budget allows.

    With a budget one number is added to all thresholds: the smallest at which the decision fits.

    Args:
        scores: Anything scored, by name; larger is more needed.
        thresholds: The method's own threshold for each.
        decide: From what is alive to masks and kept units.
        limit: The budget, or ``None`` for the method's own rule.

    Returns:
        Masks, kept units, and the number that was added.

    Raises:
        BudgetError: Nothing that leaves every layer a connection fits.
    """

    def at(shift: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return decide({n: _above(s, thresholds[n] + shift) for n, s in scores.items()})

    if limit is None:
        return *at(0.0), 0.0
    gaps = torch.cat([(s.double() - thresholds[n]).flatten() for n, s in scores.items()])
    edges = torch.cat([gaps.min()[None] - 1, gaps.unique()])  # the first one keeps everything

    def fits(place: int) -> bool:
        return limit.spent(*at(float(edges[place]))) <= limit.allowed

    low, high = 0, len(edges) - 1
    if not fits(high):
        least = limit.spent(*at(float(edges[high])))
        raise BudgetError(
            f"the budget allows {limit.allowed:g}, but {least:g} is the least that leaves every "
            "layer connected; allow more"
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    shift = float(edges[low])
    return *at(shift), shift


def _above(scores: Tensor, threshold: float) -> Tensor:
    """What scores above the threshold; the best one where none does, so no layer is cut off."""
    alive = scores.double() > threshold
    if not bool(alive.any()):
        alive.view(-1)[int(scores.argmax())] = True
    return alive
