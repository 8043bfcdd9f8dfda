"""Drawing the end first: a text is sampled as its length, then its content given the length.

p(x) = p(E) p(x | E). Committing tokens in the order of their confidence instead, end tokens among
them, favours whatever is surest, which for a text of open length is to stop.
"""

import torch
from torch import Tensor

from probcomp.decoding import sizing
from probcomp.decoding.bound import Bound
from probcomp.decoding.noise import uniform
from probcomp.decoding.rows import Rows
from probcomp.decoding.view import View


def draw_ends(
    bound: Bound, rows: Rows, view: View, seeds: Tensor, held: Tensor, teacher: Tensor | None
) -> Tensor:
    """Draw the end of each ``held`` row from what the model says; the change of its canvas, [rows].

    An end inside the window is committed and the canvas cut behind it. Past the window the canvas
    grows and the draw goes on there, among later ends only. Rows whose end is decided (or that
    are as long as they may be) are ``settled``: no other end token is committed in them.
    """
    config, index = bound.config, view.index
    if view.read_end is None:
        raise ValueError("drawing the end needs the end posterior")
    column = torch.arange(view.width + 1, device=view.ids.device)
    p = torch.where(column >= rows.floor[index, None], view.read_end.double(), 0.0)
    total = p.sum(1, keepdim=True)
    last = (column == view.length[:, None]).double()
    p = torch.where(total > 0, p / total.clamp(min=1e-300), last)
    u = uniform(seeds[index], -rows.forwards[index], 2)[:, 1:]
    at = (p.cumsum(1) <= u).sum(1)
    if teacher is not None:
        is_end = torch.isin(teacher[index], bound.eos.to(teacher.device))
        place = torch.arange(teacher.shape[1], device=teacher.device)
        at = torch.where(is_end, place, teacher.shape[1]).min(1).values
    at = torch.minimum(at, view.length)
    if teacher is not None:
        rows.teacher_log_prob[index] += torch.where(held, p.gather(1, at[:, None])[:, 0].log(), 0.0)
    beyond = at == view.length
    room = config.max_new_tokens - view.length
    stuck = beyond & ((room <= 0) | (rows.edits[index] >= config.max_edits))
    grow = sizing.by_utility(
        config,
        view,
        torch.ones_like(view.length, dtype=torch.float64),
        bound.log_survival.to(view.length.device),
        rows.pace[index],
        may_shrink=False,
    ).clamp(min=min(config.extend_actions))
    change = torch.where(beyond, torch.minimum(grow, room), at + 1 - view.length)
    change = torch.where(held & ~stuck, change, 0)
    inside = held & ~beyond
    rows.ids[index[inside], at[inside]] = bound.adapter.eos_ids[0]
    rows.age[index[inside], at[inside]] = rows.forwards[index[inside]]
    rows.settled[index] |= inside | (held & stuck)
    rows.floor[index] = torch.where(held & beyond, view.length, rows.floor[index])
    return change


def without_ends(bound: Bound, rows: Rows, index: Tensor, logits: Tensor) -> Tensor:
    """Logits [rows, width, vocabulary] with no end token where the end of a row is decided.

    Where nothing but an end is possible (a grammar of the caller allows no other token), the ends
    stay: the text then stops there.
    """
    settled = rows.settled[index]
    if not bool(settled.any()):
        return logits
    ends = bound.eos.to(logits.device)
    stop = torch.where(settled[:, None, None], -torch.inf, logits[..., ends])
    without = logits.index_copy(-1, ends, stop)
    return torch.where((without == -torch.inf).all(-1, keepdim=True), logits, without)
