r"""An order of the units in which neighbours are alike.

A hidden unit's index means nothing: any permutation of the units of a layer, applied to all their
slices, gives the same function. A prior that couples neighbours needs neighbours that tend to be
needed by the same others, so the units are put in order first. The order is the one of the Fiedler
vector, the second eigenvector of the normalised similarity of the units' supports (Atkins, Boman
and Hendrickson 1998, "A spectral algorithm for seriation"), with dead units last.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from probcomp.inference.training.units import Slot

MOST_UNITS = 2048
"""Largest group that is ordered by an eigenvector; larger ones by their mean support."""


def spectral_order(features: Tensor, alive: Tensor) -> Tensor:
    """A permutation of the units that puts similar ones side by side and dead ones last.

    Args:
        features: Supports of each unit towards everything it connects to, [size, features], >= 0.
        alive: Which units are not dead, [size].

    Returns:
        Unit numbers in their new order, [size].
    """
    live, dead = alive.nonzero().flatten(), (~alive).nonzero().flatten()
    if len(live) > 2:
        rows = features[live].double()
        weight = rows.sum(1)
        if len(live) > MOST_UNITS:
            key = -weight
        else:
            rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
            similar = rows @ rows.T
            scale = similar.sum(1).clamp_min(1e-12).rsqrt()
            _, vectors = torch.linalg.eigh(scale[:, None] * similar * scale[None, :])
            key = vectors[:, -2] * scale
            # An eigenvector has no sign of its own; fix it, so that equal inputs agree.
            if float(key @ weight) > 0:
                key = -key
        live = live[torch.argsort(key, stable=True)]
    return torch.cat([live, dead])


def unit_features(
    groups: Mapping[str, int],
    supports: Mapping[str, Tensor],
    slots: Mapping[str, Sequence[Slot]],
) -> dict[str, Tensor]:
    """For each group, the supports of its units: every slice flattened, side by side.

    Args:
        groups: Group name to size.
        supports: Parameter name to support probabilities of its sites.
        slots: Parameter name to its gates on those sites.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in groups}
    for name, values in supports.items():
        for slot in slots[name]:
            lines = values.movedim(slot.dim, 0).flatten(1)
            here = slot.index >= 0
            size = groups[slot.group]
            per_unit = int(here.sum()) // max(size, 1)
            if per_unit == 1:
                table = lines.new_zeros(size, lines.shape[1])
                table[slot.index[here]] = lines[here]
            else:  # several positions a unit: their sum stands for them
                table = lines.new_zeros(size, lines.shape[1])
                table.index_add_(0, slot.index[here], lines[here])
            parts[slot.group].append(table)
    return {name: torch.cat(tables, 1) for name, tables in parts.items() if tables}


def position_order(slot: Slot, rank: Tensor) -> Tensor | None:
    """Positions along a gated dimension in the order of their units; ``None`` if some have none.

    Args:
        slot: The gate.
        rank: New place of each unit, [size].
    """
    if bool((slot.index < 0).any()):
        return None
    return torch.argsort(rank[slot.index], stable=True)
