"""How much each row's window changes after a forward: one function a method, [rows] of changes.

``utility``  posterior expected utility (`probcomp.decoding.extension`), growing and shrinking
``daedal``   stage 1 of DAEDAL (arXiv 2508.00819): 8 masks at a time until the end looks like one
``rho_eos``  rho-EOS (arXiv 2601.22527): the share of masks whose argmax is EOS, kept in a band
``poisson``  a stand-in for DyStruct: grow by the mode of a Poisson law of stability
"""

import math

import torch
from torch import Tensor

from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.end import beyond_mass
from probcomp.decoding.extension import (
    best_extension,
    contraction,
    lookahead_utilities,
    poisson_extension,
    utilities,
)
from probcomp.decoding.view import View

DAEDAL_STEP, DAEDAL_WINDOW, DAEDAL_EOS, DAEDAL_ANCHORS = 8, 32, 0.5, 16
DAEDAL_EXPAND, DAEDAL_LOW = 0.9, 0.1
RHO_LOW, RHO_HIGH, RHO_STEP = 0.4, 0.6, 8


def by_utility(
    config: DecodingConfig,
    view: View,
    beyond: Tensor,
    log_survival: Tensor,
    pace: Tensor,
    *,
    may_shrink: bool,
) -> Tensor:
    """Growth of highest utility, or the contraction of most positions where that is none."""
    forwards = (view.expected_content() / pace.clamp(min=1.0)).clamp(min=1.0)
    costs = {"cost_truncation": config.cost_truncation, "cost_position": config.cost_position}
    actions = torch.tensor((0, *config.extend_actions), device=view.length.device)
    if config.lookahead == "dp":
        value = torch.stack(
            [
                _on_grid(actions, int(n), float(b), log_survival, float(t), costs)
                for n, b, t in zip(view.length, beyond, forwards)
            ]
        )
    else:
        value = utilities(actions, view.length, beyond, log_survival, forwards, **costs)
    grow = best_extension(actions, value)
    if not may_shrink or view.p_end is None:
        return grow
    trailing = view.length - torch.where(~view.masked & view.valid, view.place + 1, 0).max(1).values
    drop = contraction(
        view.p_end,
        view.length,
        trailing,
        forwards,
        cost_truncation=config.cost_truncation,
        cost_position=config.cost_position,
    )
    return torch.where(grow > 0, grow, -drop)


def _on_grid(
    actions: Tensor,
    length: int,
    beyond: float,
    log_survival: Tensor,
    forwards: float,
    costs: dict[str, float],
) -> Tensor:
    grid = math.gcd(*(int(n) for n in actions))
    found = lookahead_utilities(length, beyond, log_survival, forwards, grid=grid, **costs)
    step = actions // grid
    reachable = step < len(found)
    return torch.where(reachable, found[step.clamp(max=len(found) - 1)], -math.inf)


def eos_score(view: View, top_is_eos: Tensor) -> Tensor:
    """DAEDAL's score: sum of p(EOS) over the last 32 positions whose argmax is EOS, over 32."""
    on = top_is_eos & view.valid
    from_end = on.flip(1).long().cumsum(1).flip(1)
    return (view.features.eos * (on & (from_end <= DAEDAL_WINDOW))).sum(1) / DAEDAL_WINDOW


def by_daedal(view: View, top_is_eos: Tensor, longest: int) -> Tensor:
    """8 more while the score is below 0.5."""
    room = (longest - view.length).clamp(min=0)
    grow = torch.where(eos_score(view, top_is_eos) < DAEDAL_EOS, DAEDAL_STEP, 0)
    return torch.minimum(grow, room)


def by_rho(view: View, top_is_eos: Tensor, longest: int) -> Tensor:
    """8 min(8, 2^(ceil(gap / 0.1) - 1)) more below the band, fewer trailing masks above it."""
    masks = view.masked.sum(1)
    rho = (view.masked & top_is_eos).sum(1) / masks.clamp(min=1)
    gap = torch.where(rho < RHO_LOW, RHO_LOW - rho, (rho - RHO_HIGH).clamp(min=0.0))
    # Gaps are ratios of counts: ceil(0.3 / 0.1) must not be 4 by a rounding error.
    level = torch.ceil(gap / 0.1 - 1e-6).clamp(min=0)
    amount = RHO_STEP * torch.minimum(torch.tensor(8.0), 2.0 ** (level - 1)).long()
    trailing = view.length - torch.where(~view.masked & view.valid, view.place + 1, 0).max(1).values
    grow = torch.minimum(amount, (longest - view.length).clamp(min=0))
    drop = torch.minimum(amount, (trailing - 1).clamp(min=0))
    change = torch.where(rho < RHO_LOW, grow, torch.where(rho > RHO_HIGH, -drop, 0))
    return torch.where((masks > 0) & (level > 0), change, 0)


def by_poisson(view: View, vocab_size: int, longest: int) -> Tensor:
    """The Poisson mode at the window's mean normalised entropy, between 8 and 64."""
    h = view.features.entropy / math.log(vocab_size)
    instability = (h * view.valid).sum(1) / view.length.clamp(min=1)
    return torch.minimum(
        poisson_extension(instability, 8, 64), (longest - view.length).clamp(min=0)
    )


def behind_end(masked: Tensor, ends: Tensor, length: Tensor) -> Tensor:
    """Minus the positions behind an end that is known, [rows]: no forward needs them any more.

    Known is the first committed end token if the token before it is decided. If that is open the
    end may lie before it, and a canvas that stops there would say that it does not. masked, ends
    [rows, width]: undecided positions, and committed end tokens inside ``length`` [rows].
    """
    place = torch.arange(ends.shape[1], device=ends.device)
    at = torch.where(ends, place, ends.shape[1]).min(1).values
    before = masked.gather(1, (at - 1).clamp(min=0)[:, None])[:, 0] & (at > 0)
    return torch.where((at < length) & ~before, at + 1 - length, 0)


def beyond_of(view: View) -> Tensor:
    """P(E > W) per row; 0 where ends are not modelled."""
    if view.p_end is None:
        return torch.zeros(len(view.ids), device=view.ids.device)
    return beyond_mass(view.p_end, view.length)
