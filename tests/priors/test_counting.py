"""Fixed counts."""

import math

import pytest
import torch

from probcomp.errors import InputError
from probcomp.priors import ExactK, NofM


def test_exact_k_is_uniform_over_sets() -> None:
    support = torch.tensor([[1.0, 0, 1, 0, 0], [1, 1, 1, 0, 0]], dtype=torch.float64)
    log_prob = ExactK(2).log_prob(support)
    assert log_prob[0].item() == pytest.approx(-math.log(10))
    assert log_prob[1].item() == -math.inf


@pytest.mark.parametrize("k", [0, 3, 7])
def test_draws_hold_exactly_k(k: int) -> None:
    draws = ExactK(k).sample((50, 7), generator=torch.Generator().manual_seed(0))
    assert bool((draws.sum(-1) == k).all())


def test_draws_hold_n_of_each_m() -> None:
    draws = NofM(2, 4).sample((50, 12), generator=torch.Generator().manual_seed(0))
    assert bool((draws.unflatten(-1, (3, 4)).sum(-1) == 2).all())


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="at least 5 supports"):
        ExactK(5).log_prob(torch.zeros(4))
    with pytest.raises(InputError, match="divisible by 4, got 6"):
        NofM(2, 4).sample((6,))
