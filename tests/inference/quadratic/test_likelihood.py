"""The quadratic against the loss it stands for, token by token."""

import math

import pytest
import torch

from probcomp.errors import DivergenceError, InputError
from probcomp.inference.quadratic import Quadratic
from probcomp.inference.quadratic.likelihood import inverse


def layer(seed: int = 0, rows: int = 4, size: int = 6, tokens: int = 50):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, size, generator=generator, dtype=torch.double)
    return torch.randn(rows, size, generator=generator, dtype=torch.double), x


def token_loss(x, change) -> float:
    return sum(0.5 * float((change @ token).square().sum()) for token in x)


def test_loss_increase_is_the_sum_over_tokens() -> None:
    weight, x = layer()
    quadratic = Quadratic(weight, x.T @ x)
    change = torch.randn_like(weight)
    assert quadratic.loss_increase(change) == pytest.approx(token_loss(x, change), rel=1e-12)
    mask = torch.tensor([True, False, True, True, False, True])
    removed = torch.where(mask, 0.0, -weight)
    assert quadratic.loss_increase(mask) == pytest.approx(token_loss(x, removed), rel=1e-12)
    assert quadratic.loss_increase(mask.expand(4, 6)) == quadratic.loss_increase(mask)
    assert quadratic.loss_increase(torch.ones(6, dtype=torch.bool)) == 0


def test_temperature_divides_nats() -> None:
    weight, x = layer()
    quadratic = Quadratic(weight, x.T @ x)
    change = torch.randn_like(weight)
    cold = quadratic.tempered(4.0)
    assert cold.loss_increase(change) == pytest.approx(quadratic.loss_increase(change) / 4)
    assert cold.ridge == pytest.approx(quadratic.ridge / 4)


def test_jitter_is_in_units_of_the_mean_diagonal() -> None:
    weight, x = layer()
    quadratic = Quadratic(weight, x.T @ x, jitter=0.01)
    extra = quadratic.precision - quadratic.gram
    expected = 0.01 * quadratic.gram.diagonal().mean() * torch.eye(6, dtype=torch.double)
    torch.testing.assert_close(extra, expected)
    torch.testing.assert_close(quadratic.linear, weight @ quadratic.precision)
    assert Quadratic(weight, x.T @ x, jitter=0.0).precision is not None


def test_from_cross_is_least_squares_on_changed_inputs() -> None:
    weight, x = layer(1)
    changed = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).double()
    adapted = Quadratic.from_cross(weight, changed.T @ changed, x.T @ changed, jitter=0.0)
    expected = torch.linalg.lstsq(changed, x @ weight.T).solution.T
    torch.testing.assert_close(adapted.weight, expected, rtol=1e-9, atol=1e-9)
    same = Quadratic.from_cross(weight, x.T @ x, x.T @ x)
    torch.testing.assert_close(same.weight, weight, rtol=1e-9, atol=1e-9)


def test_inverse_survives_sites_of_any_size() -> None:
    _, x = layer()
    gram = x.T @ x
    site = torch.tensor([1e-3, 1.0, 1e3, 1e9, 1.0, 1e14], dtype=torch.double)
    expected = torch.linalg.inv(gram + torch.diag(site))
    found = inverse(gram, site)
    scale = expected.diagonal().sqrt()
    torch.testing.assert_close(found / scale / scale[:, None], expected / scale / scale[:, None])


def test_dependent_inputs_are_refused_with_advice() -> None:
    gram = torch.ones(3, 3, dtype=torch.double)
    with pytest.raises(DivergenceError, match="raise jitter"):
        inverse(gram - 1e-6 * torch.eye(3, dtype=torch.double), gram.new_zeros(3))


GOOD = torch.eye(3, dtype=torch.double)
W = torch.ones(2, 3, dtype=torch.double)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quadratic(torch.ones(3), GOOD), r"weight \[do, di\]"),
        (lambda: Quadratic(W, torch.eye(2).double()), r"gram \[di, di\]"),
        (lambda: Quadratic(W[:0], GOOD), r"weight \[do, di\]"),
        (lambda: Quadratic(W, GOOD.float()), "both be float32 or both float64"),
        (lambda: Quadratic(W.long(), GOOD.long()), "float64"),
        (lambda: Quadratic(W * math.nan, GOOD), "weight holds NaN"),
        (lambda: Quadratic(W, GOOD / 0), "gram holds NaN"),
        (lambda: Quadratic(W, GOOD + torch.ones(3, 3).double().triu(1)), "symmetric"),
        (lambda: Quadratic(W, -GOOD), "Clamp what is rounding"),
        (lambda: Quadratic(W, 0 * GOOD), "all zero"),
        (lambda: Quadratic(W, GOOD, jitter=-1.0), "jitter"),
        (lambda: Quadratic(W, GOOD).tempered(0.0), "temperature"),
        (lambda: Quadratic(W, GOOD).loss_increase(torch.ones(2, 2)), "change"),
        (lambda: Quadratic(W, GOOD).loss_increase(torch.ones(2) > 0), "mask"),
        (lambda: Quadratic.from_cross(W, GOOD, torch.ones(2, 3)), "cross"),
    ],
)
def test_bad_input_is_refused(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_another_matrix_reads_the_same_inputs() -> None:
    x = torch.randn(20, 3, dtype=torch.float64)
    q = Quadratic(torch.randn(2, 3, dtype=torch.float64), x.T @ x, 0.1)
    weight = torch.randn(5, 3, dtype=torch.float64)
    wanted = Quadratic(weight, q.gram, 0.1).linear
    torch.testing.assert_close(q.reading(weight).linear, wanted)
    known = q.precision
    other = q.reading(weight)
    assert other.precision is known
    torch.testing.assert_close(other.linear, wanted)
    for wrong in (weight[:, :2], weight.float(), weight * torch.nan):
        with pytest.raises(InputError):
            q.reading(wrong)
