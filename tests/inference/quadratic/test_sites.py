"""A group on its own: expectation propagation has nothing to approximate but the site's form."""

import pytest
import torch

from probcomp.inference.quadratic import GroupFactor, column_evidence, ep_group
from probcomp.inference.quadratic.sites import factor_cavity, start_state, update
from probcomp.testing.quadratic import group_teacher


@pytest.mark.parametrize("width", [1, 4])
def test_all_kept_the_evidence_is_the_savage_dickey_ratio(width: int) -> None:
    teacher = group_teacher(width=width, correlation=1.0)
    cavity = factor_cavity(teacher.factor, start_state(teacher.factor))
    expected = column_evidence(teacher.quadratic, teacher.columns, teacher.slab)
    torch.testing.assert_close(cavity.evidence, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("width", [1, 4])
def test_kept_for_certain_the_site_is_the_slab(width: int) -> None:
    teacher = group_teacher(width=width, correlation=1.0)
    factor, state = teacher.factor, start_state(teacher.factor)
    new = update(factor, state, factor_cavity(factor, state), torch.ones(8).double(), 0.0)
    torch.testing.assert_close(new.site, state.site, rtol=1e-9, atol=0)
    assert new.linear.abs().max() < 1e-9 * teacher.quadratic.linear.abs().max()


@pytest.mark.parametrize("width", [1, 4])
def test_a_site_has_the_mean_and_the_total_variance_of_the_mixture(width: int) -> None:
    """Moments of slab and zero by brute force over both, from the cavity as a dense matrix."""
    teacher = group_teacher(groups=4, width=width, rows=3, correlation=0.5, seed=2)
    factor, state = teacher.factor, start_state(teacher.factor)
    cavity = factor_cavity(factor, state)
    p = torch.tensor([0.9, 0.4, 0.7, 0.99], dtype=torch.double)
    new = update(factor, state, cavity, p, 0.0)
    basis = cavity.basis if cavity.basis is not None else torch.ones(4, 1, 1).double()
    checked = 0
    for g, columns in enumerate(factor.columns):
        dense = basis[g] @ torch.diag(cavity.values[g]) @ basis[g].T
        eta = cavity.linear[g] @ basis[g].T
        slab = torch.linalg.inv(dense + factor.slab * torch.eye(width))
        mean = eta @ slab
        total = p[g] * (slab.trace() * 3 + mean.square().sum()) - (p[g] * mean).square().sum()
        site = new.site[columns]
        assert float(site.max() - site.min()) == 0
        if float(site[0]) == factor.slab / 2:  # a mixture wider than the slab allows
            continue
        checked += 1
        joint = torch.linalg.inv(dense + torch.diag(site))
        assert float(3 * joint.trace()) == pytest.approx(float(total), rel=1e-9)
        found = (eta + new.linear[:, columns]) @ joint
        torch.testing.assert_close(found, p[g] * mean, rtol=1e-9, atol=1e-12)
    assert checked >= 3


def test_damping_keeps_a_share_of_the_old_site() -> None:
    teacher = group_teacher(correlation=0.5)
    factor, state = teacher.factor, start_state(teacher.factor)
    cavity, p = factor_cavity(factor, state), torch.full((8,), 0.5).double()
    free, damped = (update(factor, state, cavity, p, d) for d in (0.0, 0.25))
    torch.testing.assert_close(1 / damped.site, 0.75 / free.site + 0.25 / state.site)
    mean = 0.75 * free.linear / free.site + 0.25 * state.linear / state.site
    torch.testing.assert_close(damped.linear / damped.site, mean)


def test_the_slab_is_learnt_where_it_is_free() -> None:
    """EM from a start four times too wide ends near the precision that made the weights."""
    teacher = group_teacher(groups=60, width=3, tokens=2000, rows=20, slab=25.0, seed=3)
    result = ep_group([GroupFactor(teacher.quadratic, teacher.columns)], iterations=40)
    # 60 groups, about half of them on: 1800 weights, a spread of 1 / sqrt(900) of the precision.
    assert result.slabs[0] == pytest.approx(25.0, rel=0.1)
    held = ep_group([GroupFactor(teacher.quadratic, teacher.columns, 9.0)])
    assert held.slabs == (9.0,)
