"""Tiles of a matrix, the last ones smaller where the tile does not divide it."""

import torch

from probcomp.priors import Blocks, Independent, Lattice


def test_gather_and_spread_on_a_ragged_edge() -> None:
    prior = Blocks((2, 3), Independent(0.5))
    values = torch.arange(15.0).view(3, 5)
    tiles = prior.gather(values)
    expected = [[values[:2, :3].sum(), values[:2, 3:].sum()]]
    expected += [[values[2:, :3].sum(), values[2:, 3:].sum()]]
    torch.testing.assert_close(tiles, torch.tensor(expected))
    assert prior.grid((7, 3, 5)) == (7, 2, 2)
    spread = prior.spread(torch.tensor([[1.0, 2], [3, 4]]), (3, 5))
    assert spread.tolist() == [[1, 1, 1, 2, 2], [1, 1, 1, 2, 2], [3, 3, 3, 4, 4]]


def test_a_support_that_cuts_a_tile_is_impossible() -> None:
    prior = Blocks((2, 2), Lattice(0.0, 1.0))
    support = torch.zeros(4, 4)
    support[0, 0] = 1
    assert prior.log_prob(support).item() == -torch.inf
    support[:2, :2] = 1
    tiles = torch.tensor([[1.0, 0], [0, 0]])
    torch.testing.assert_close(prior.log_prob(support), Lattice(0.0, 1.0).log_prob(tiles))


def test_draws_are_whole_tiles() -> None:
    prior = Blocks((4, 4), Independent(0.3))
    draws = prior.sample((20, 10, 6), generator=torch.Generator().manual_seed(0))
    full = prior.gather(draws.double())
    whole = prior.gather(torch.ones(10, 6, dtype=torch.float64))
    assert bool(((full == 0) | (full == whole)).all())
