"""Taking tokens back and putting masks in: verification, border repair, mask insertion."""

import torch
from torch import Tensor

from probcomp.decoding import revoke, sizing
from probcomp.decoding.bound import Bound
from probcomp.decoding.repair import EXTRA_FORWARDS, border
from probcomp.decoding.rows import Rows
from probcomp.decoding.view import View


def shadow_positions(
    bound: Bound, rows: Rows, index: Tensor, ids: Tensor, valid: Tensor
) -> Tensor | None:
    """Positions to look at from outside: the visible ones of the block, or a fresh border."""
    config = bound.config
    if config.verify != "none":
        begin, end = rows.begin[index], rows.end[index]
        size = int((end - begin).max())
        place = begin[:, None] + torch.arange(max(size, 1), device=ids.device)
        at = place.clamp(max=ids.shape[1] - 1)
        ours = rows.age[index].gather(1, at) > 0
        seen = ours & (place < end[:, None]) & valid.gather(1, at)
        # A block without a mask is finished: nothing in it is taken back any more.
        masked = valid & (ids == rows.mask_id)
        busy = (masked.gather(1, at) & (place < end[:, None])).any(1, keepdim=True)
        return torch.where(seen & busy, place, -1)
    if config.border > 0 and bool((rows.border[index] > 0).any()):
        masked = valid & (ids == rows.mask_id)
        return border(rows.border[index], config.border, masked, rows.length[index])
    return None


def verify(
    bound: Bound, rows: Rows, view: View, shadow: Tensor, seen: Tensor, commit: Tensor
) -> Tensor:
    """Positions of the block to revoke, by WINO's rule or by the odds. [rows, width]."""
    config, index = bound.config, view.index
    now, before = commit.sum(1), rows.accepted[index]
    own, best, on = _shadow_probabilities(view, shadow, seen)
    if config.verify == "wino":
        found = revoke.wino(own, on, config.below, now, before)
    else:
        taken = rows.taken[index].gather(1, shadow.clamp(min=0))
        found = revoke.by_odds(own, best, on, taken, margin=config.margin, most=config.revoke_most)
        cap = torch.where(now > 1, before - 1, 0).clamp(min=0)
        found = revoke.fewest(found, own - best, cap)
    return _scatter(found, shadow, view.width)


def repair_border(
    bound: Bound, rows: Rows, view: View, shadow: Tensor | None, seen: Tensor | None
) -> Tensor:
    """Border repair: revoke by the odds around a finished border, then refine that zone."""
    nothing = torch.zeros_like(view.masked)
    index, config = view.index, bound.config
    if config.verify != "none" or config.border == 0 or shadow is None or seen is None:
        if config.border > 0:  # not ready: a neighbour is unfinished, so this border is let go
            rows.checked[index] |= rows.border[index] > 0
            rows.border[index] = 0
        return nothing
    own, best, on = _shadow_probabilities(view, shadow, seen)
    taken = rows.taken[index].gather(1, shadow.clamp(min=0))
    on = on & (rows.age[index].gather(1, shadow.clamp(min=0)) > 0)
    found = revoke.by_odds(own, best, on, taken, margin=config.margin, most=config.revoke_most)
    again = found.any(1)
    cut = rows.border[index]
    rows.border[index] = 0
    rows.checked[index] |= cut > 0
    rows.begin[index] = torch.where(again, (cut - config.border).clamp(min=0), rows.begin[index])
    zone = torch.minimum(cut + config.border, view.length)
    rows.end[index] = torch.where(again, zone, rows.end[index])
    # Below zero until the next forward has marginals for what was masked again.
    rows.repair[index] = torch.where(again, -EXTRA_FORWARDS, rows.repair[index])
    return _scatter(found, shadow, view.width)


def insert_masks(
    bound: Bound,
    rows: Rows,
    view: View,
    top_is_eos: Tensor,
    going: Tensor,
    begin: Tensor,
    end: Tensor,
) -> None:
    """DAEDAL stage 2: the least confident mask of the block becomes eight, once a forward."""
    index = view.index
    still = (rows.ids[index, : view.width] == rows.mask_id) & view.inside(begin, end)
    score = torch.where(still, view.features.top_prob, 2.0)
    low, at = score.min(1)
    room = view.length + sizing.DAEDAL_STEP - 1 <= bound.config.max_new_tokens
    doubt = sizing.eos_score(view, top_is_eos) < sizing.DAEDAL_EXPAND
    which = going & room & doubt & (low < sizing.DAEDAL_LOW)
    rows.insert(index[which], at[which], sizing.DAEDAL_STEP)


def _shadow_probabilities(
    view: View, shadow: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(own, best, asked), each [rows, positions]: leave-one-out chances of the visible tokens."""
    p = seen.softmax(-1)
    token = view.ids.gather(1, shadow.clamp(min=0))
    return p.gather(-1, token[..., None])[..., 0], p.max(-1).values, shadow >= 0


def _scatter(found: Tensor, place: Tensor, width: int) -> Tensor:
    """Positions back to the canvas; -1 falls off."""
    wide = torch.zeros(len(found), width + 1, dtype=torch.bool, device=found.device)
    return wide.scatter(1, torch.where(found, place, width), found)[:, :width]
