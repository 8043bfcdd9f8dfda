"""Which block a row is on: the next is chosen when one is finished, or within a forward.

A block that a forward commits as a whole leaves some of what the forward may spend, and the same
logits say what lies behind it. `carry_on` lets the row go on there: the block and its successor
are put to the commit rule as one, and what it says is taken when it holds all of the former. So
blocks are still finished in their order, and the rule's own budget bounds the forward.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from probcomp.decoding import cutting
from probcomp.decoding.bound import Bound
from probcomp.decoding.noise import uniform
from probcomp.decoding.rows import Rows
from probcomp.decoding.view import View

Choose = Callable[[Tensor, Tensor, Tensor], Tensor]


def choose_blocks(bound: Bound, rows: Rows, view: View, seeds: Tensor, live: Tensor) -> None:
    """Give each ``live`` row [rows] whose block is finished the next one."""
    config, index = bound.config, view.index
    begin, end = rows.begin[index], rows.end[index]
    if config.blocks == "none":
        rows.begin[index], rows.end[index] = torch.zeros_like(begin), view.length
        need = live & (rows.block_step[index] == 0)
    else:
        need = live & ~(view.pending & view.inside(begin, end)).any(1) & view.pending.any(1)
        if bool(need.any()):
            _enter(rows, index, need, *_next(bound, rows, view, seeds))
    rows.block_step[index[need]] = rows.repair[index[need]] = 0
    rows.checked[index[need]] = False
    todo = (view.pending & view.inside(rows.begin[index], rows.end[index])).sum(1)
    rows.block_masks[index[need]] = todo[need]
    rows.block_step[index[live]] += 1


def carry_on(
    bound: Bound,
    rows: Rows,
    view: View,
    seeds: Tensor,
    eligible: Tensor,
    commit: Tensor,
    choose: Choose,
) -> Tensor:
    """The set to commit, [rows, width], grown into the next blocks while one is whole.

    Args:
        eligible, commit: what of the current block could be committed, and what will be.
        choose: (eligible, begin, end) -> the rule's set on these positions of one block.
    """
    index = view.index
    low, high = rows.begin[index], rows.end[index]
    turn = 0
    while True:
        turn += 1
        rest = replace(view, masked=view.masked & ~commit)
        able = commit.any(1) & ~(eligible & ~commit).any(1) & rest.pending.any(1)
        if not bool(able.any()):  # the usual case, and the next block costs a pass
            return commit
        begin, end = _next(bound, rows, rest, seeds, turn)
        more = rest.pending & rest.inside(begin, end)
        wide = eligible | (more & able[:, None])
        lowest = torch.where(able, torch.minimum(low, begin), low)
        highest = torch.where(able, torch.maximum(high, end), high)
        found = choose(wide, lowest, highest)
        on = able & ~(commit & ~found).any(1) & (found & ~commit).any(1)
        if not bool(on.any()):
            return commit
        _enter(rows, index, on, begin, end)
        rows.block_step[index[on]] = 1
        rows.block_masks[index[on]] = more.sum(1)[on]
        commit = torch.where(on[:, None], found, commit)
        eligible = torch.where(on[:, None], wide, eligible)
        low, high = torch.where(on, lowest, low), torch.where(on, highest, high)


def _next(
    bound: Bound, rows: Rows, view: View, seeds: Tensor, turn: int = 0
) -> tuple[Tensor, Tensor]:
    """Begin and end of the next block, [rows] each; ``turn`` counts those chosen in a forward."""
    config, index = bound.config, view.index
    if config.blocks == "fixed":
        return cutting.on_grid(view, config.block_length)
    if config.blocks == "delimiter":
        return cutting.at_delimiter(view, config)
    # The second number of a forward is for drawing an end (`probcomp.decoding.ending`).
    column = turn + (turn > 0)
    draw = uniform(seeds[index], -rows.forwards[index], column + 1)[:, column]
    return cutting.by_posterior(view, config, bound.durations, draw)


def _enter(rows: Rows, index: Tensor, which: Tensor, begin: Tensor, end: Tensor) -> None:
    rows.begin[index[which]], rows.end[index[which]] = begin[which], end[which]
    rows.cuts[index[which], (end[which] - 1).clamp(min=0)] = True
