"""Compensation against least squares on the data and the closed form for one removal."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probcomp.errors import DivergenceError, InputError
from probcomp.inference.quadratic import Quadratic, refit
from tests.inference.quadratic.test_likelihood import layer

MASK = torch.tensor([True, False, True, True, False, True])


def test_columns_are_least_squares_on_what_stays() -> None:
    weight, x = layer()
    new = refit(Quadratic(weight, x.T @ x, jitter=0.0), MASK)
    expected = torch.linalg.lstsq(x[:, MASK], x @ weight.T).solution.T
    torch.testing.assert_close(new[:, MASK], expected, rtol=1e-9, atol=1e-9)
    assert not new[:, ~MASK].any()


def test_rows_with_masks_of_their_own() -> None:
    weight, x = layer()
    quadratic = Quadratic(weight, x.T @ x)
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(3)) < 0.5
    mask[1], mask[2] = mask[0], False
    new = refit(quadratic, mask, slab=0.3)
    for row in range(4):
        alone = Quadratic(weight[row : row + 1], x.T @ x)
        torch.testing.assert_close(new[row], refit(alone, mask[row], slab=0.3)[0])
    assert not new[~mask].any()
    torch.testing.assert_close(refit(quadratic, MASK.expand(4, 6)), refit(quadratic, MASK))


def test_one_removal_is_optimal_brain_surgeon() -> None:
    weight, x = layer()
    quadratic = Quadratic(weight, x.T @ x, jitter=0.0)
    inverse = torch.linalg.inv(quadratic.gram)
    step = -weight[:, 2:3] / inverse[2, 2] * inverse[2]
    mask = torch.arange(6) != 2
    torch.testing.assert_close(refit(quadratic, mask), weight + step, rtol=1e-9, atol=1e-9)
    saliency = float((weight[:, 2].square() / (2 * inverse[2, 2])).sum())
    assert quadratic.loss_increase(step) == pytest.approx(saliency, rel=1e-10)


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1.0))
def test_no_other_weights_on_the_mask_lose_less(seed: int, scale: float) -> None:
    weight, x = layer(seed % 7)
    quadratic = Quadratic(weight, x.T @ x, jitter=0.0)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(4, 6, generator=generator) < 0.6
    new = refit(quadratic, mask)
    other = new + scale * mask * torch.randn(4, 6, generator=generator)
    best = quadratic.loss_increase(new - weight)
    assert quadratic.loss_increase(other - weight) >= best - 1e-10


def test_keeping_everything_changes_nothing_and_nothing_is_zero() -> None:
    weight, x = layer()
    quadratic = Quadratic(weight, x.T @ x)
    torch.testing.assert_close(refit(quadratic, torch.ones(6, dtype=torch.bool)), weight)
    assert not refit(quadratic, torch.zeros(6, dtype=torch.bool)).any()


def test_bad_input_is_refused() -> None:
    weight, x = layer()
    quadratic = Quadratic(weight, x.T @ x)
    with pytest.raises(InputError, match="boolean"):
        refit(quadratic, torch.ones(6))
    with pytest.raises(InputError, match=r"\(6,\)"):
        refit(quadratic, MASK[:5])
    with pytest.raises(InputError, match="slab"):
        refit(quadratic, MASK, slab=-1.0)
    twins = Quadratic(weight, torch.ones(6, 6, dtype=torch.double), jitter=0.0)
    with pytest.raises(DivergenceError, match="raise jitter"):
        refit(twins, MASK)
