"""From beliefs to a decision: which units and weights stay, at a cost met exactly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import BudgetError
from probcomp.inference.training.gates import Graph, Matrix, Messages, beliefs, connections
from probcomp.inference.training.units import Slot, UnitGroup


@dataclass(frozen=True)
class Decision:
    """What stays.

    Attributes:
        masks: Weight name to booleans of the weight's shape.
        keep: Group name to booleans [size].
        cost: Cost of what stays, in the cost's unit.
    """

    masks: Mapping[str, Tensor]
    keep: Mapping[str, Tensor]
    cost: float


def decide(
    graph: Graph,
    evidence: Mapping[str, Tensor],
    messages: Messages,
    groups: Sequence[UnitGroup],
    target: float | None,
) -> Decision:
    r"""Threshold the beliefs so that units and weights agree and the cost is the target.

    A weight's belief falls by what it pays for each nat of price, its charge, so the price at which
    it would be dropped is :math:`\lambda + \mathrm{bel}_n / c_n`. Weights of live units are taken
    in that order until the budget is spent. A unit left without any weight that makes it, or
    without any that reads it, is dead; its weights go, and what they cost is spent on the next.

    Args:
        graph: The factor graph.
        evidence: Parameter name to evidence of its sites.
        messages: Converged messages.
        groups: The unit groups; ``min_keep`` (1 if absent) of each stay.
        target: Cost that may remain, or ``None`` to keep what is more likely needed than not.

    Raises:
        BudgetError: What cannot be removed costs more than the target.
    """
    belief = beliefs(graph, evidence, messages)
    safe = {}
    for group in groups:
        odds = messages.units[group.name]
        least = min(max(int(getattr(group, "min_keep", 1)), 1), group.size)
        safe[group.name] = torch.zeros_like(odds, dtype=torch.bool)
        safe[group.name][odds.topk(least).indices] = True
    keep = _units(graph, messages, safe, target)
    while True:
        live = {name: _live(matrix, keep) for name, matrix in graph.matrices.items()}
        forced = _lifelines(graph, belief, live, safe)
        chosen = _choose(graph, belief, live, forced, keep, target)
        ties = connections(graph, {n: c.float() for n, c in chosen.items()})
        found = {name: keep[name] & (ties[name] == 0) & ~safe[name] for name in keep}
        if not any(bool(dead.any()) for dead in found.values()):
            break
        for name, dead in found.items():
            keep[name] = keep[name] & ~dead
    masks = {n: graph.matrices[n].sites.expand(c).contiguous() for n, c in chosen.items()}
    spent = _unit_cost(graph, keep) + sum(
        float(graph.matrices[n].cost.expand_as(c)[c].double().sum()) for n, c in chosen.items()
    )
    if target is not None and spent > target * (1 + 1e-6) + 1e-6:
        raise BudgetError(
            f"{target:.6g} of the cost was asked for, but {spent:.6g} is the least that leaves "
            "every layer connected; allow more, or lower min_keep of the units"
        )
    return Decision(masks, keep, spent)


def _live(matrix: Matrix, keep: Mapping[str, Tensor]) -> Tensor:
    """Sites all of whose units stay."""
    live = torch.ones(matrix.sites.shape, dtype=torch.bool, device=matrix.cost.device)
    for slot in matrix.slots:
        live = live & (slot.spread(keep[slot.group].float(), live.dim(), 1.0) > 0)
    return live


def _unit_cost(graph: Graph, keep: Mapping[str, Tensor]) -> float:
    """Cost of everything that has no supports of its own."""
    total = graph.constant
    for entry in graph.gated.values():
        cost = entry.cost
        for slot in entry.slots:
            cost = cost * slot.spread(keep[slot.group].float(), cost.dim(), 1.0)
        total += float(cost.double().sum())
    return total


def _units(
    graph: Graph, messages: Messages, safe: Mapping[str, Tensor], target: float | None
) -> dict[str, Tensor]:
    """Units that stay: those likelier needed than not, moved by the budget only where it must.

    The edge falls while all weights of all kept units cost less than the target: only then are
    units kept that nothing needs. It rises while units alone cost more.
    """

    def at(edge: float) -> dict[str, Tensor]:
        return {n: (odds > edge) | safe[n] for n, odds in units.items()}

    def capacity(keep: Mapping[str, Tensor]) -> float:
        weights = (_live(m, keep) * m.cost for m in graph.matrices.values())
        return _unit_cost(graph, keep) + sum(float(w.sum(dtype=torch.double)) for w in weights)

    units = messages.units
    if target is None or not units:
        return at(0.0)
    edges = torch.cat([odds.double() for odds in units.values()]).sort().values
    low = high = start = int((edges <= 0).sum())  # number of units below the edge
    if capacity(at(0.0)) < target:
        low = 0
        while low < high:  # the highest edge with room for the target
            middle = (low + high + 1) // 2
            enough = capacity(at(_below(edges, middle))) >= target
            low, high = (middle, high) if enough else (low, middle - 1)
    high = len(edges)
    while low < high:  # the lowest edge whose units fit the target
        middle = (low + high) // 2
        fits = _unit_cost(graph, at(_below(edges, middle))) <= target
        low, high = (low, middle) if fits else (middle + 1, high)
    return at(_below(edges, low)) if low != start else at(0.0)


def _below(edges: Tensor, count: int) -> float:
    """An edge with ``count`` units at or below it."""
    return float(edges[count - 1]) if count else -float("inf")


def _lifelines(
    graph: Graph,
    belief: Mapping[str, Tensor],
    live: Mapping[str, Tensor],
    safe: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The likeliest weight of each slice of the units that must stay."""
    forced = {}
    for name, matrix in graph.matrices.items():
        taken = torch.zeros_like(live[name])
        odds = belief[name].masked_fill(~live[name], -float("inf"))
        for slot in matrix.slots:
            lines = odds.movedim(slot.dim, 0).flatten(1)
            marks = torch.zeros_like(lines, dtype=torch.bool)
            for unit in safe[slot.group].nonzero().flatten().tolist():
                mine = (slot.index == unit).nonzero().flatten()
                if len(mine):
                    best = int(lines[mine].argmax())
                    marks[mine[best // lines.shape[1]], best % lines.shape[1]] = True
            shape = odds.movedim(slot.dim, 0).shape
            taken |= marks.reshape(shape).movedim(0, slot.dim)
        if not bool(taken.any()):
            taken.view(-1)[int(odds.argmax())] = True  # no layer is cut off from its input
        forced[name] = taken & live[name]
    return forced


def _choose(
    graph: Graph,
    belief: Mapping[str, Tensor],
    live: Mapping[str, Tensor],
    forced: Mapping[str, Tensor],
    keep: Mapping[str, Tensor],
    target: float | None,
) -> dict[str, Tensor]:
    """Supports of the sites."""
    if target is None:
        return {n: (live[n] & (b > 0)) | forced[n] for n, b in belief.items()}
    names = list(belief)
    cost = torch.cat(
        [graph.matrices[n].cost.expand_as(belief[n]).reshape(-1).double() for n in names]
    )
    charge = torch.cat(
        [graph.matrices[n].charged.expand_as(belief[n]).reshape(-1).double() for n in names]
    )
    odds = torch.cat([belief[n].reshape(-1).double() for n in names])
    must = torch.cat([forced[n].reshape(-1) for n in names])
    may = torch.cat([live[n].reshape(-1) for n in names])
    free = may & (cost <= 0) & (odds > 0)  # what costs nothing stays where it is likely needed
    score = (odds / charge.clamp_min(1e-300)).masked_fill(must, float("inf"))
    score = score.masked_fill(~may | (cost <= 0), -float("inf"))
    order = torch.argsort(score, descending=True, stable=True)
    order = order[torch.isfinite(score[order]) | must[order]]
    spent = torch.cumsum(cost[order], 0) + _unit_cost(graph, keep)
    taken = (spent <= target) | must[order]
    chosen = (free | (must & (cost <= 0))).index_fill(0, order[taken], True)
    parts = chosen.split([belief[n].numel() for n in names])
    return {n: part.reshape(belief[n].shape) for n, part in zip(names, parts, strict=True)}


def unit_masks(
    keep: Mapping[str, Tensor],
    slots: Mapping[str, Sequence[Slot]],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, Tensor]:
    """For each gated parameter, which entries belong to kept units only; broadcasts to it."""
    masks: dict[str, Tensor] = {}
    for name, gates in slots.items():
        for slot in gates:
            here = slot.spread(keep[slot.group].float(), len(shapes[name]), 1.0) > 0
            masks[name] = here if name not in masks else masks[name] & here
    return masks
