"""Conditional log-odds against differences of the whole prior's log probability."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.quadratic.conditional import check_samplable, conditional, together
from probcomp.priors import Blocks, Chain, ExactK, GatedChain, Independent, Lattice


@pytest.mark.parametrize(
    "prior",
    [
        Independent(0.2),
        Independent(torch.rand(5, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1),
        Chain(0.2, 0.4),
        GatedChain(0.6, Chain(0.3, 0.3)),
        Lattice(-0.4, 0.9),
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_it_is_the_difference_of_log_probabilities(prior) -> None:
    generator = torch.Generator().manual_seed(1)
    support = (torch.rand(4, 5, generator=generator) < 0.5).double()
    for column in range(5):
        found = conditional(prior, support, column)
        for row in range(4):
            on, off = support.clone(), support.clone()
            on[row, column], off[row, column] = 1, 0
            expected = (prior.log_prob(on) - prior.log_prob(off)).sum()
            torch.testing.assert_close(found[row].double(), expected.double(), rtol=1e-6, atol=1e-6)


def test_rows_of_a_lattice_alternate() -> None:
    first, second = together(Lattice(0.0, 1.0), 5)
    assert first.tolist() == [0, 2, 4]
    assert second.tolist() == [1, 3]
    assert len(together(Chain(0.1, 0.1), 5)) == 1
    assert not conditional(None, torch.ones(3, 4), 2).any()


def test_priors_without_conditionals_are_refused() -> None:
    with pytest.raises(InputError, match="fixes the number"):
        check_samplable(ExactK(2))
    with pytest.raises(InputError, match="Blocks"):
        conditional(Blocks((2, 2), Independent(0.5)), torch.ones(4, 4), 1)
