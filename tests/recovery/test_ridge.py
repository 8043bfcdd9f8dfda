"""The refit between two halves against plain least squares, ridge regression and loops."""

import pytest
import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.recovery.ridge import GRID, SCORED, WIDE, Moments, fit

EXACT = 1e-8  # float64 normal equations against a QR solution, condition below 1e4


def moments(x: Tensor, y: Tensor) -> Moments:
    return Moments(x.T @ x, x.T @ y, x.sum(0), y.sum(0), y.square().sum(0), len(x))


def halves(x: Tensor, y: Tensor) -> tuple[Moments, Moments]:
    return moments(x[::2], y[::2]), moments(x[1::2], y[1::2])


def data(rows: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 1 + torch.randn(rows, 6, generator=generator, dtype=torch.float64)
    w = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    y = x @ w.T + 2 + noise * torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return x, y


def ridge(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Ridge regression with a free bias, by an augmented least-squares problem."""
    xc, yc = x - x.mean(0), y - y.mean(0)
    top = torch.cat([xc, penalty**0.5 * torch.eye(x.shape[1], dtype=x.dtype)])
    bottom = torch.cat([yc, torch.zeros(x.shape[1], y.shape[1], dtype=x.dtype)])
    change = torch.linalg.lstsq(top, bottom).solution.T
    return change, y.mean(0) - change @ x.mean(0)


def test_the_solution_is_ridge_regression_with_the_chosen_penalty() -> None:
    x, y = data(200, 1.0)
    found = fit(halves(x, y), bias=True)
    penalty = found.ridge * float(x.square().sum()) / x.numel() * len(x)
    change, bias = ridge(x, y, penalty)
    torch.testing.assert_close(found.change, change, atol=EXACT, rtol=0)
    torch.testing.assert_close(found.bias, bias, atol=EXACT, rtol=0)


@pytest.mark.parametrize("rows", [14, 60, 2000])
def test_the_penalty_is_the_grid_value_that_predicts_the_other_half_best(rows: int) -> None:
    x, y = data(rows, 4.0)
    found = fit(halves(x, y), bias=True)
    parts = [(x[::2], y[::2]), (x[1::2], y[1::2])]
    scale = float(x.square().sum()) / x.numel()
    errors = []
    for step in GRID:
        error = 0.0
        for (a, b), (c, d) in (parts, parts[::-1]):
            change, _ = ridge(a, b, step * scale * len(a))
            left = (d - d.mean(0)) - (c - c.mean(0)) @ change.T
            error += float(left.square().sum())
        errors.append(error)
    assert found.ridge == GRID[errors.index(min(errors))]
    base = sum(float((b - b.mean(0)).square().sum()) for _, b in parts)
    assert found.error == pytest.approx(min(errors) / base, rel=1e-8)


def test_wide_refits_choose_the_penalty_of_double_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.randn(60, WIDE + 1, dtype=torch.float64)
    parts = halves(x, x[:, :3] + torch.randn(60, 3, dtype=torch.float64))
    found = fit(parts, bias=True)
    monkeypatch.setattr("probcomp.recovery.ridge.WIDE", 10**9)
    exact = fit(parts, bias=True)
    assert found.ridge == exact.ridge
    assert found.error == pytest.approx(exact.error, rel=1e-4)
    assert torch.equal(found.change, exact.change)  # the solution itself is always exact


def test_of_many_outputs_a_part_chooses_the_penalty_for_all() -> None:
    """Outputs between the scored ones are pure noise in one half; they have no say."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=generator, dtype=torch.float64)
    w = torch.randn(2 * SCORED, 5, generator=generator, dtype=torch.float64)
    y = x @ w.T
    y[:, 1::2] += 1e3 * torch.randn(400, SCORED, generator=generator, dtype=torch.float64)
    found, some = fit(halves(x, y), bias=True), fit(halves(x, y[:, ::2]), bias=True)
    assert found.ridge == some.ridge == GRID[0]
    assert found.error == pytest.approx(some.error, rel=1e-9)
    torch.testing.assert_close(found.change[::2], some.change, atol=EXACT, rtol=0)
    assert bool(found.change[1::2].any())  # and all are refitted


def test_outputs_of_zero_do_not_stop_the_refit_of_others() -> None:
    """Every second output is an exact map of the inputs, the others are nothing."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    w = torch.randn(2 * SCORED, 5, generator=generator, dtype=torch.float64)
    w[::2] = 0
    found = fit(halves(x, x @ w.T), bias=True)
    torch.testing.assert_close(found.change, w, atol=0.05, rtol=0.05)


def test_noise_in_the_scored_outputs_does_not_stop_the_refit_of_others() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(2 * SCORED, 5, generator=generator, dtype=torch.float64).T
    y[:, ::2] = torch.randn(12, SCORED, generator=generator, dtype=torch.float64)
    assert not fit(halves(x, y[:, ::2]), bias=True).change.any()
    assert bool(fit(halves(x, y), bias=True).change[1::2].any())


def test_few_rows_are_believed_less_than_many() -> None:
    few, many = (fit(halves(*data(rows, 4.0)), bias=True).ridge for rows in (14, 2000))
    assert few > many


def test_targets_that_inputs_do_not_explain_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 9, generator=generator, dtype=torch.float64)
    y = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    found = fit(halves(x, y), bias=True)
    assert found.error <= 1
    assert float((found.change @ x.T).square().mean()) < float(y.square().mean())
    zero = fit(halves(x, 0 * y), bias=True)
    assert not zero.change.any()
    assert not zero.bias.any()


def test_without_a_bias_means_are_left_in() -> None:
    x, y = data(500, 0.01)
    found = fit(halves(x, y), bias=False)
    assert not found.bias.any()
    residual = y - x @ found.change.T
    assert float(residual.mean(0).abs().max()) > 1e-3


def test_two_halves_are_needed() -> None:
    with pytest.raises(InputError, match="two halves"):
        fit((halves(*data(10, 1.0))[0],), bias=True)
