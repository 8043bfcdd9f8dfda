"""Tiles: evidence adds up, the posterior is shared."""

import torch

from probcomp.inference.supports import marginals
from probcomp.priors import Blocks, Independent, Lattice


def test_tiles_of_one_entry_change_nothing() -> None:
    evidence = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tiles = marginals(Blocks((1, 1), Lattice(0.1, 0.9)), evidence)
    plain = marginals(Lattice(0.1, 0.9), evidence)
    torch.testing.assert_close(tiles.log_odds, plain.log_odds)
    torch.testing.assert_close(tiles.log_z, plain.log_z)


def test_evidence_of_a_tile_is_the_sum_of_its_entries() -> None:
    evidence = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prior = Blocks((2, 4), Lattice(0.1, 0.9))
    result = marginals(prior, evidence)
    tiles = marginals(Lattice(0.1, 0.9), prior.gather(evidence))
    torch.testing.assert_close(result.gate.log_odds, tiles.log_odds)
    torch.testing.assert_close(result.log_odds[4, 5], tiles.log_odds[2, 1])
    assert result.exact


def test_state_and_convergence_come_from_the_tiles() -> None:
    evidence = torch.randn(60, 60, generator=torch.Generator().manual_seed(0))
    prior = Blocks((4, 4), Lattice(0.0, 1.0))
    cold = marginals(prior, evidence)
    warm = marginals(prior, evidence, start=cold.state)
    assert not cold.exact
    assert warm.iterations < cold.iterations


def test_rows_of_tiles_under_a_prior_of_one_dimension_add_up() -> None:
    evidence = torch.zeros(3, 6, 6)
    assert marginals(Blocks((2, 2), Independent(0.2)), evidence).log_z.shape == (3,)
