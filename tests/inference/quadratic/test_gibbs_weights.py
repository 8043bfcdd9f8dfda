"""Sampled supports of single weights against the sum over the supports of each row."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.quadratic import Quadratic, gibbs
from probcomp.priors import Blocks, Chain, Independent
from probcomp.testing.quadratic import enumerate_weights, weight_teacher


@pytest.mark.parametrize("prior", [None, Chain(0.3, 0.4)], ids=repr)
def test_rows_against_enumeration(prior) -> None:
    teacher = weight_teacher(rows=8, size=6, tokens=120, correlation=0.5, seed=1)
    result = gibbs(
        teacher.quadratic, prior=prior, slab=teacher.slab, spike=teacher.spike, sweeps=200
    )
    exact = enumerate_weights(teacher, prior=prior)
    assert (result.probability - exact).abs().max() < 4 * result.change + 0.01
    assert result.change < 0.08


def test_weighted_rows_and_moments() -> None:
    """A slab and spike nearly alike leave ridge regression, with each row's own weight."""
    teacher = weight_teacher(rows=4, size=5, seed=2)
    rows = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.double)
    quadratic = teacher.quadratic
    result = gibbs(quadratic, slab=20.0, spike=20.0001, rows=rows, sweeps=10, burn=0)
    for row, weight in enumerate(rows):
        inverse = torch.linalg.inv(weight * quadratic.gram + 20 * torch.eye(5))
        ridge = weight * quadratic.linear[row] @ inverse
        torch.testing.assert_close(result.mean[row], ridge, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(result.variance[row], inverse.diagonal(), rtol=1e-3, atol=0)


def test_the_seed_decides() -> None:
    quadratic = weight_teacher(rows=4, size=5).quadratic
    first, second, third = (gibbs(quadratic, sweeps=5, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.probability, second.probability)
    assert not torch.equal(first.probability, third.probability)


def test_what_it_cannot_do_is_refused() -> None:
    quadratic = weight_teacher(rows=4, size=4).quadratic
    with pytest.raises(InputError, match="Blocks"):
        gibbs(quadratic, prior=Blocks((2, 2), Independent(0.5)))
    wide = Quadratic(torch.ones(200, 1000).double(), torch.eye(1000).double())
    with pytest.raises(InputError, match="ep_shared"):
        gibbs(wide)
