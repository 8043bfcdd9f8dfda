"""Running products against plain ones."""

import pytest
import torch

from probcomp.evidence.products import PANEL, MomentSums, SymmetricSum, at_least_single

EXACT = 1e-11


@pytest.mark.parametrize("width", [3, PANEL + 1, 2 * PANEL + 7])
def test_the_sum_is_that_of_all_rows_and_exactly_symmetric(width: int) -> None:
    rows = torch.randn(30, width, dtype=torch.float64)
    sums = SymmetricSum(width)
    sums.add(rows[:11])
    sums.add(rows[11:])
    found = sums.whole()
    torch.testing.assert_close(found, rows.T @ rows, atol=EXACT, rtol=0)
    assert torch.equal(found, found.mT)


def test_batches_in_single_precision_are_summed_in_double() -> None:
    sums = SymmetricSum(1)
    for value in (2.0**15, 2.0**-15):
        sums.add(torch.tensor([[value]]))
    assert float(sums.whole()) == 2.0**30 + 2.0**-30


def test_moments_are_those_of_all_rows() -> None:
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    sums = MomentSums(4, 3)
    for part in (slice(0, 5), slice(5, 20)):
        sums.add(x[part], y[part])
    found = sums.whole()
    for value, wanted in (
        (found.gram, x.T @ x),
        (found.cross, x.T @ y),
        (found.inputs, x.sum(0)),
        (found.targets, y.sum(0)),
        (found.square, y.square().sum(0)),
    ):
        torch.testing.assert_close(value, wanted, atol=EXACT, rtol=0)
    assert found.count == 20


def test_half_precision_is_multiplied_in_single() -> None:
    assert at_least_single(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert at_least_single(torch.ones(1, dtype=torch.float64)).dtype == torch.float64
