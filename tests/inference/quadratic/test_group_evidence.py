"""The evidence of a layer, by summing over all sets of units."""

import pytest
import torch

from probcomp.inference.quadratic import GroupFactor, Quadratic, ep_group, log_evidence
from probcomp.priors import Chain, Independent
from probcomp.testing.quadratic import enumerate_groups, group_teacher

TIGHT = {"iterations": 200, "tolerance": 1e-8}


@pytest.mark.parametrize(
    ("prior", "error"), [(None, 0.1), (Independent(0.3), 0.1), (Chain(0.2, 0.3), 0.25)], ids=repr
)
@pytest.mark.parametrize("width", [1, 3])
def test_near_enumeration(prior, error: float, width: int) -> None:
    """In nats; sites that no unit shares leave out what a chain couples."""
    for seed in range(3):
        teacher = group_teacher(
            groups=8, width=width, rows=8, tokens=60, slab=50.0, correlation=1.0, seed=seed
        )
        factors = [teacher.factor]
        truth = float(_total(factors, prior))
        found = log_evidence(factors, ep_group(factors, prior=prior, **TIGHT))
        assert found == pytest.approx(truth, abs=error)


def _total(factors, prior, bias=0.0):
    posterior = enumerate_groups(factors, prior=prior, bias=bias)
    score = posterior.score.logsumexp(0)
    return score if prior is not None else score - len(factors[0].columns) * torch.tensor(2.0).log()


def test_exact_where_columns_are_orthogonal() -> None:
    """No unit sees another: two consumers, one with columns of no unit, a price and a field."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 5, 6, dtype=torch.double, generator=generator)
    gram = torch.diag(torch.rand(6, dtype=torch.double, generator=generator) * 9 + 1)
    wide = torch.cat([weights[1], weights[0, :, :2]], 1)
    factors = [
        GroupFactor(Quadratic(weights[0], gram, 0.0), torch.arange(6)[:, None], 2.0),
        GroupFactor(
            Quadratic(wide, torch.block_diag(gram, gram[:2, :2]), 0.0),
            torch.arange(6)[:, None],
            3.0,
        ),
    ]
    prior, field = Independent(0.3), 0.4
    result = ep_group(factors, prior=prior, field=field, cost=2.0, price=0.1, **TIGHT)
    # The columns of no unit stay in every set: their own integral is what enumeration leaves out.
    loose = Quadratic(weights[0, :, :2], gram[:2, :2], 0.0)
    precision = loose.precision.diagonal()
    own = 0.5 * (5 * (3.0 / (3.0 + precision)).log().sum())
    own = own + 0.5 * (loose.linear.square() / (precision + 3.0)).sum()
    truth = _total(factors, prior, field - 0.2) + own
    assert log_evidence(factors, result) == pytest.approx(float(truth), abs=1e-9)


def test_strong_evidence_is_counted_beyond_the_clip() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = 5 + torch.randn(8, 4, dtype=torch.double, generator=generator)
    gram = 100 * torch.eye(4, dtype=torch.double)
    factors = [GroupFactor(Quadratic(weight, gram, 0.0), torch.arange(4)[:, None], 1.0)]
    result = ep_group(factors, prior=Independent(0.4), **TIGHT)
    assert float(result.evidence.min()) > 1000
    truth = float(_total(factors, Independent(0.4)))
    assert log_evidence(factors, result) == pytest.approx(truth, rel=1e-12)


def test_single_precision_is_summed_in_double() -> None:
    """Terms of thousands of nats cancel; the evidence of the same sites does not move."""
    teacher = group_teacher(groups=8, width=1, tokens=2000, slab=0.01, correlation=1.0)
    single = Quadratic(teacher.quadratic.weight.float(), teacher.quadratic.gram.float(), 0.0)
    low = [GroupFactor(single, teacher.columns, teacher.slab)]
    result = ep_group(low, prior=Independent(0.5), **TIGHT)
    same = Quadratic(single.weight.double(), single.gram.double(), 0.0)
    high = [GroupFactor(same, teacher.columns, teacher.slab)]
    truth = log_evidence(high, ep_group(high, prior=Independent(0.5), **TIGHT))
    assert abs(truth) > 1e5
    assert log_evidence(low, result) == pytest.approx(truth, abs=0.05)
