"""The reference itself, by hand."""

import math

import pytest
import torch

from probcomp.errors import InputError
from probcomp.priors import Independent
from probcomp.testing.enumeration import all_supports, enumerate_posterior


def test_two_independent_supports_by_hand() -> None:
    evidence = torch.tensor([math.log(2), 0.0], dtype=torch.float64)
    found = enumerate_posterior(Independent(0.25), evidence)
    assert found.supports.shape == (4, 2)
    assert found.log_z.item() == pytest.approx(math.log(0.75 + 0.25 * 2))
    assert found.probability[0].item() == pytest.approx(0.5 / 1.25)
    assert found.probability[1].item() == pytest.approx(0.25)
    assert found.log_odds[0].item() == pytest.approx(math.log(0.5 / 0.75))


def test_rows_of_a_prior_over_one_dimension_add_up() -> None:
    evidence = torch.zeros(2, 3, dtype=torch.float64)
    found = enumerate_posterior(Independent(0.25), evidence)
    assert found.log_z.item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(found.probability, torch.full_like(evidence, 0.25))


def test_too_many_sites_are_refused() -> None:
    with pytest.raises(InputError, match="at most 20 sites, got 24"):
        all_supports(4, 6)
