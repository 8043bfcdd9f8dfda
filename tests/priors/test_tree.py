"""Nested and stationary trees."""

import torch

from probcomp.priors import Tree
from probcomp.testing.enumeration import all_supports

PARENTS = (-1, 0, 0, 1, 1, 2)


def test_nested_tree_forbids_children_of_removed_nodes() -> None:
    draws = Tree(PARENTS, 0.6, 0.7).sample((500, 6), generator=torch.Generator().manual_seed(0))
    for node, parent in enumerate(PARENTS):
        if parent >= 0:
            assert not bool((draws[:, node] & ~draws[:, parent]).any())
    alone = torch.zeros(6)
    alone[5] = 1
    assert Tree(PARENTS, 0.6, 0.7).log_prob(alone).item() == -torch.inf


def test_stationary_tree_has_one_marginal_and_the_wanted_persistence() -> None:
    supports = all_supports(6)
    weight = Tree.stationary(PARENTS, 0.3, 0.8).log_prob(supports).exp()
    marginal = weight @ supports
    torch.testing.assert_close(marginal, torch.full_like(marginal, 0.3), rtol=0, atol=1e-12)
    both = weight @ (supports[:, 3] * supports[:, 1])
    torch.testing.assert_close(both, torch.tensor(0.3 * 0.8, dtype=torch.float64))


def test_persistence_equal_to_density_is_independence() -> None:
    supports = all_supports(6)
    log_prob = Tree.stationary(PARENTS, 0.3, 0.3).log_prob(supports)
    on = supports.sum(-1)
    expected = on * torch.log(torch.tensor(0.3)) + (6 - on) * torch.log(torch.tensor(0.7))
    torch.testing.assert_close(log_prob, expected, rtol=1e-6, atol=1e-6)


def test_levels_go_from_roots_to_leaves_in_any_order_of_nodes() -> None:
    assert Tree((3, 0, 0, -1, 1), 0.5, 0.5).levels == [[3], [0], [1, 2], [4]]
    assert Tree(torch.tensor([-1, 0]), 0.5, 0.5) == Tree([-1, 0], 0.5, 0.5)
