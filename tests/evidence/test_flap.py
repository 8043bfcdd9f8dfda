import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probcomp.errors import InputError
from probcomp.evidence.flap import column_scores, mean, standardised, variance
from tests.evidence.seen import rows, statistics, weights

ROUNDING = 1e-10  # differences of second moments, relative to them


def test_the_score_is_the_error_of_replacing_an_input_by_its_mean():
    x, w = rows(60, 7), weights(4, 7)
    seen = statistics(x, samples=6)
    found = column_scores(w, seen)
    for j in range(7):
        replaced = x.clone()
        replaced[:, j] = x[:, j].mean()
        error = ((x - replaced) @ w.T).square().sum(1).mean()
        assert abs(float(found[j] - error)) <= ROUNDING * float(error)


def test_no_other_constant_is_better_than_the_mean():
    x = rows(60, 3)
    assert torch.allclose(variance(statistics(x, 6)), x.var(0, correction=0), rtol=ROUNDING)
    for shift in (-0.1, 0.1):
        other = (x - (mean(statistics(x, 6)) + shift)).square().mean(0)
        assert bool((other > variance(statistics(x, 6))).all())


@given(scale=st.floats(0.01, 100), shift=st.floats(-10, 10), seed=st.integers(0, 20))
def test_standardisation_forgets_scale_and_offset(scale: float, shift: float, seed: int):
    part = torch.rand(6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    plain = standardised([part])
    assert torch.allclose(plain, standardised([scale * part + shift]), atol=1e-6)
    assert abs(float(plain.mean())) <= ROUNDING


def test_a_unit_is_the_mean_of_its_standardised_columns():
    part = rows(5, 3).abs()
    naive = (part - part.mean()) / part.flatten().std()
    assert torch.allclose(standardised([part]), naive.mean(1), rtol=ROUNDING)
    both = torch.cat((part, 2 * part), 1)
    assert torch.equal(standardised([part, 2 * part]), standardised([both]))


def test_columns_that_are_alike_and_parts_that_differ():
    assert standardised([torch.ones(4, 2)]).tolist() == [0.0] * 4
    with pytest.raises(InputError, match="of one axis"):
        standardised([torch.ones(4, 2), torch.ones(3, 2)])
    with pytest.raises(InputError, match="of one axis"):
        standardised([])
