"""The sampled reference against enumeration, within its own standard error."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.quadratic import GroupFactor, Quadratic, gibbs
from probcomp.priors import Chain, ExactK, Independent, NofM
from probcomp.testing.quadratic import enumerate_groups, group_teacher


def test_groups_of_two_consumers() -> None:
    first = group_teacher(groups=6, width=3, correlation=1.0, seed=1)
    second = group_teacher(groups=6, width=1, correlation=0.5, seed=2)
    cost = torch.linspace(0.5, 1.5, 6, dtype=torch.double)
    factors = [first.factor, second.factor]
    result = gibbs(factors, field=0.3, cost=cost, price=0.5, sweeps=150)
    exact = enumerate_groups(factors, bias=0.3 - 0.5 * cost).probability
    # Four standard errors over six units, and a floor for those that hardly move.
    assert (result.probability - exact).abs().max() < 4 * result.change + 0.01
    assert result.change < 0.08
    again = gibbs(factors, field=0.3, cost=cost, price=0.5, sweeps=150)
    assert torch.equal(again.probability, result.probability)


def test_groups_under_a_chain() -> None:
    teacher, prior = group_teacher(groups=8, rows=4, seed=3), Chain(0.2, 0.4)
    result = gibbs([teacher.factor], prior=prior, sweeps=200)
    exact = enumerate_groups([teacher.factor], prior=prior).probability
    assert (result.probability - exact).abs().max() < 4 * result.change + 0.01


def test_a_free_slab_is_that_of_the_dense_weights() -> None:
    teacher = group_teacher(groups=4)
    result = gibbs([GroupFactor(teacher.quadratic, teacher.columns)], sweeps=5)
    assert result.slabs[0] == pytest.approx(1 / float(teacher.quadratic.weight.square().mean()))


def test_fixed_counts_and_bad_lengths_are_refused() -> None:
    factor = group_teacher(groups=4).factor
    for prior in (ExactK(2), NofM(2, 4)):
        with pytest.raises(InputError, match="fixes the number"):
            gibbs([factor], prior=prior)
    with pytest.raises(InputError, match="sweeps"):
        gibbs([factor], sweeps=0)
    with pytest.raises(InputError, match="burn"):
        gibbs([factor], prior=Independent(0.5), burn=-1)
    with pytest.raises(InputError, match="price"):
        gibbs([factor], price=float("nan"))
    with pytest.raises(InputError, match="negative"):
        gibbs([factor], cost=-1.0)


@pytest.mark.parametrize("units", [200, 201])
def test_it_is_the_reference_for_up_to_200_units(units: int) -> None:
    eye = torch.eye(units, dtype=torch.double)
    factor = GroupFactor(Quadratic(eye[:1] + 1, eye), torch.arange(units)[:, None], slab=1.0)
    if units > 200:
        with pytest.raises(InputError, match="up to 200 units, got 201: use ep_group"):
            gibbs([factor], sweeps=2, burn=0)
    else:
        assert gibbs([factor], sweeps=2, burn=0).probability.shape == (200,)
