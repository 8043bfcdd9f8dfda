"""Likelihoods, orders and adjustments of units against direct algebra."""

import pytest
import torch
from torch import Tensor

from probcomp.evidence import Statistics
from probcomp.inference.quadratic import Quadratic, refit
from probcomp.recipes.post_config import PostConfig
from probcomp.recipes.post_units import (
    DAMPING_RANGE,
    Judged,
    damping_of,
    dense_refit,
    input_gram,
    kept_columns,
    metric_root,
)
from probcomp.structure import Axis, Cost
from tests.recipes.posts import UNITS, stage

EXACT = 1e-9


def statistics(rows: Tensor) -> Statistics:
    return Statistics(rows.T @ rows, rows.sum(0), len(rows), len(rows))


def inputs() -> Tensor:
    torch.manual_seed(0)
    return 2 + torch.randn(40, 4, dtype=torch.float64)


def test_a_bias_takes_the_means_out_and_constants_are_exactly_zero() -> None:
    rows = inputs()
    rows[:, 2] = 3.0
    found = input_gram(statistics(rows), centred=True)
    middle = rows - rows.mean(0)
    torch.testing.assert_close(found, middle.T @ middle, atol=EXACT, rtol=0)
    assert not found[2].any()
    assert not found[:, 2].any()
    seen = statistics(rows)
    assert torch.equal(input_gram(seen, centred=False), seen.gram)


def test_inputs_that_carry_nothing_still_have_an_inverse() -> None:
    found = input_gram(statistics(torch.full((5, 3), 2.0, dtype=torch.float64)), centred=True)
    assert torch.linalg.cholesky_ex(found).info == 0


def test_the_root_gives_the_metric_back_without_what_is_negligible() -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    values = torch.tensor([3.0, 1.0, 0.5, 1e-4], dtype=torch.float64)
    root = metric_root(basis @ torch.diag(values) @ basis.T, 4)
    assert len(root) == 3
    kept = basis[:, :3] @ torch.diag(values[:3]) @ basis[:, :3].T
    torch.testing.assert_close(root.T @ root, kept, atol=EXACT, rtol=0)
    assert torch.equal(metric_root(None, 3), torch.eye(3, dtype=torch.float64))


def test_few_rows_are_damped_more_within_bounds() -> None:
    rows = inputs()
    assert damping_of(None, statistics(rows)) == pytest.approx(4 / 40)
    assert damping_of(None, statistics(rows[:2])) == DAMPING_RANGE[1]
    assert damping_of(None, statistics(rows.repeat(1000, 1))) == DAMPING_RANGE[0]
    assert damping_of(0.25, statistics(rows)) == 0.25


@pytest.mark.parametrize("centred", [True, False])
def test_an_adjustment_is_least_squares_on_the_rows(centred: bool) -> None:
    rows, weight = inputs(), torch.randn(3, 4, dtype=torch.float64)
    seen = statistics(rows)
    columns = torch.tensor([True, False, True, True])
    quadratic = Quadratic(weight, input_gram(seen, centred), 0.0)
    new, gain = dense_refit(quadratic, seen, columns, centred=centred)
    some = rows[:, columns]
    if centred:
        some = torch.cat([some, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)
    wanted = torch.linalg.lstsq(some, rows @ weight.T).solution.T
    torch.testing.assert_close(new[:, columns], wanted[:, :3], atol=EXACT, rtol=0)
    assert not new[:, ~columns].any()
    assert (gain is None) == (not centred)
    if gain is not None:
        torch.testing.assert_close(gain, wanted[:, 3], atol=EXACT, rtol=0)


def test_the_curve_is_the_loss_of_the_best_adjustment_at_each_number_gone() -> None:
    found = stage(PostConfig())
    for name, judged in found.judged.items():
        (factor,) = found.context.factors(found.reads[name], found.seen)
        quadratic = factor.quadratic
        for gone in (0, 1, len(judged.order) // 2):
            keep = judged.keep(gone)
            assert int((~keep).sum()) == gone
            mask = kept_columns(found.reads[name][0], keep, quadratic.size)
            change = refit(quadratic, mask) - quadratic.weight
            loss = 0.5 * float(((change @ quadratic.precision) * change).sum()) / UNITS
            assert float(judged.loss[gone]) == pytest.approx(loss, rel=1e-6, abs=1e-12)


def test_columns_of_a_unit_go_together() -> None:
    read = stage(PostConfig()).reads
    for (one,) in read.values():
        keep = torch.ones(len(one.columns), dtype=torch.bool)
        keep[1] = False
        columns = kept_columns(one, keep, one.columns.numel())
        assert (~columns).nonzero().flatten().tolist() == sorted(one.columns[1].tolist())


def test_where_a_multiple_has_to_stay_more_go_and_cost_what_they_cost() -> None:
    axis = Axis("a", "neuron", 8, (), Cost(1, 1), exact=True, min_keep=3)
    loss = torch.tensor([0.0, 1, 2, 4, 8, 16], dtype=torch.float64)
    judged = Judged(axis, (), torch.tensor([7, 6, 5, 4, 3]), loss).in_multiples(3)
    assert [judged.whole(m) for m in range(6)] == [0, 2, 2, 5, 5, 5]
    assert judged.loss.tolist() == [0, 2, 2, 16, 16, 16]
    assert [int(judged.keep(m).sum()) for m in range(6)] == [8, 6, 6, 3, 3, 3]
    assert judged.keep(1).tolist() == [True] * 6 + [False] * 2
