"""Which solver a lattice gets."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.supports import marginals
from probcomp.priors import Lattice


def test_narrow_lattices_are_exact_and_wide_ones_say_they_are_not() -> None:
    assert marginals(Lattice(0.0, 1.0), torch.zeros(30, 12)).exact
    assert not marginals(Lattice(0.0, 1.0), torch.zeros(13, 13)).exact
    assert not marginals(Lattice(0.0, 1.0), torch.zeros(3, 4), method="loopy").exact


def test_exact_is_refused_where_it_is_out_of_reach() -> None:
    with pytest.raises(InputError, match="at most 12 sites across, got 13 x 14"):
        marginals(Lattice(0.0, 1.0), torch.zeros(13, 14), method="exact")
