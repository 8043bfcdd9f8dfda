"""Standard errors of averages over a chain."""

import math

import pytest
import torch

from probcomp.inference.quadratic.trace import log_odds, standard_error


def test_independent_draws_have_the_textbook_error() -> None:
    draws = torch.randn(20000, generator=torch.Generator().manual_seed(0)).double()[:, None]
    # Nine degrees of freedom: a relative spread of 0.24.
    assert standard_error(draws) == pytest.approx(1 / math.sqrt(20000), rel=0.7)


def test_a_chain_that_sticks_has_a_larger_one() -> None:
    draws = torch.randn(200, 1, generator=torch.Generator().manual_seed(1)).double()
    sticky = draws.repeat_interleave(100, 0)
    assert standard_error(sticky) > 5 * standard_error(torch.randn_like(sticky))
    assert standard_error(draws[:1]) == math.inf


def test_log_odds_of_certainty_stay_finite() -> None:
    odds = log_odds(torch.tensor([0.0, 0.5, 1.0], dtype=torch.double))
    assert odds.tolist() == pytest.approx([-27.6, 0.0, 27.6], abs=0.1)
