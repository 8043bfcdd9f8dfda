"""Changes of the canvas by each rule, on views made by hand."""

import math

import pytest
import torch

from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.features import Features
from probcomp.decoding.length import LengthPrior
from probcomp.decoding.sizing import (
    behind_end,
    beyond_of,
    by_daedal,
    by_poisson,
    by_rho,
    by_utility,
    eos_score,
)
from probcomp.decoding.view import View


def view(eos=(), masked=None, length=None, entropy=0.0, p_end=None):
    """One row; ``eos`` its EOS marginals, all masked unless told."""
    n = len(eos)
    e = torch.tensor([eos], dtype=torch.float64)
    size = torch.tensor([n if length is None else length])
    valid = torch.arange(n) < size[:, None]
    m = valid if masked is None else torch.tensor([masked])
    zero = torch.zeros(1, n)
    features = Features(zero.long(), zero, zero.long(), zero, zero + entropy, e, zero)
    none = torch.zeros(1, n, dtype=torch.bool)
    return View(torch.tensor([0]), zero.long(), m, valid, size, features, none, size, p_end)


def test_daedal_s_score_is_over_the_last_end_tokens():
    eos = [0.9] * 4 + [0.8] * 36
    v = view(eos)
    every = torch.ones(1, 40, dtype=torch.bool)
    assert float(eos_score(v, every)) == pytest.approx(0.8)
    some = torch.arange(40)[None] < 8  # 8 positions say end, the others are skipped
    assert float(eos_score(v, some)) == pytest.approx((4 * 0.9 + 4 * 0.8) / 32)


@pytest.mark.parametrize(("eos", "longest", "want"), [(0.2, 99, 8), (0.2, 35, 3), (0.9, 99, 0)])
def test_daedal_grows_by_eight_while_it_sees_no_end(eos, longest, want):
    v = view([eos] * 32)
    assert by_daedal(v, torch.ones(1, 32, dtype=torch.bool), longest).tolist() == [want]


@pytest.mark.parametrize(
    ("share", "want"),
    # 8 min(8, 2^(ceil(gap / .1) - 1)) by hand: gaps of 0.4, 0.1, 0, 0.1 and 0.4.
    [(0.0, 64), (0.3, 8), (0.5, 0), (0.7, -8), (1.0, -9)],
)
def test_rho_eos_keeps_the_share_in_its_band(share, want):
    top = torch.arange(10)[None] >= round(10 * (1 - share))
    assert by_rho(view([0.5] * 10), top, 999).tolist() == [want]


def test_rho_eos_never_drops_what_is_decided_and_stops_at_the_longest():
    masked = [True] * 4 + [False] + [True] * 5
    every, none = torch.ones(1, 10, dtype=torch.bool), torch.zeros(1, 10, dtype=torch.bool)
    assert by_rho(view([0.5] * 10, masked), every, 99).tolist() == [-4]
    assert by_rho(view([0.5] * 10, masked), none, 12).tolist() == [2]
    assert by_rho(view([0.5] * 10, [False] * 10), none, 99).tolist() == [0]


def test_poisson_grows_more_where_it_is_calm():
    calm, wild = (by_poisson(view([0.1] * 6, entropy=h), 10, 99) for h in (0.0, math.log(10)))
    assert int(calm) > int(wild) >= 8
    assert by_poisson(view([0.1] * 6), 10, 9).tolist() == [3]


def test_utility_grows_by_the_action_of_least_cost():
    config = DecodingConfig(extend_actions=(4, 8, 16), cost_position=1e-3)
    survival = LengthPrior.constant(8.0).log_survival(100)
    p = torch.zeros(1, 11, dtype=torch.float64)
    p[0, 10] = 1.0
    v = view([0.0] * 10, p_end=p)
    forwards = v.expected_content() / 4
    found = by_utility(config, v, beyond_of(v), survival, torch.tensor([4.0]), may_shrink=True)

    def cost(n):
        left = float((survival[10 + n] - survival[10]).exp())
        return left + 1e-3 * float(forwards) * n

    assert int(found) == min((0, 4, 8, 16), key=cost)


@pytest.mark.parametrize("lookahead", ["myopic", "dp"])
def test_utility_leaves_a_canvas_that_fits_and_drops_what_is_not_needed(lookahead):
    config = DecodingConfig(lookahead=lookahead, extend_actions=(4, 8))
    survival = LengthPrior.constant(8.0).log_survival(100)
    p = torch.zeros(1, 21, dtype=torch.float64)
    p[0, 3] = 1.0
    v = view([0.0] * 20, p_end=p)
    args = (config, v, beyond_of(v), survival, torch.tensor([4.0]))
    assert by_utility(*args, may_shrink=False).tolist() == [0]
    assert by_utility(*args, may_shrink=True).tolist() == [-16]


def test_without_an_end_model_nothing_lies_beyond():
    assert beyond_of(view([0.1] * 3)).tolist() == [0.0]


def test_what_lies_behind_a_known_end_is_dropped():
    m, c, e = (True, False), (False, False), (False, True)  # (masked, end): mask, content, end
    rows = [
        [c, m, c, e, m, m],  # known: the token before the end is decided
        [c, m, m, e, m, m],  # the end may lie before it
        [e, m, m, m, m, m],  # an empty text
        [c, m, c, m, m, m],  # no end
        [m, c, e, e, e, e],  # the first end counts
        [c, c, c, c, c, e],  # nothing behind it
    ]
    masked, ends = (torch.tensor([[cell[k] for cell in row] for row in rows]) for k in (0, 1))
    length = torch.full((6,), 6)
    assert behind_end(masked, ends, length).tolist() == [-2, 0, -5, 0, -3, 0]
