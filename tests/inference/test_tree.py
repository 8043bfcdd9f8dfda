"""Trees against enumeration, pairs included."""

import pytest
import torch

from probcomp.inference.supports import marginals
from probcomp.priors import Chain, Tree
from tests.inference.enumeration import enumerate_posterior

PARENTS = (3, 0, 0, -1, 1, -1, 5, 5)


@pytest.mark.parametrize(
    "prior",
    [
        Tree(PARENTS, 0.6, 0.7),
        Tree(PARENTS, 0.6, 1.0),
        Tree(PARENTS, 0.3, 0.9, 0.2),
        Tree.stationary(PARENTS, 0.2, 0.6),
    ],
)
def test_marginals_pairs_and_log_z(prior: Tree) -> None:
    evidence = 2 * torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result, truth = marginals(prior, evidence), enumerate_posterior(prior, evidence)
    torch.testing.assert_close(result.probability, truth.probability, rtol=0, atol=1e-12)
    torch.testing.assert_close(result.log_z, truth.log_z, rtol=0, atol=1e-10)
    s, parents = truth.supports, torch.tensor(prior.parents)
    pairs = torch.where(parents >= 0, s[:, parents.clamp_min(0)] * s, s)
    torch.testing.assert_close(result.pair, truth.mean(pairs), rtol=0, atol=1e-12)


def test_a_path_is_a_chain() -> None:
    p01, p10 = 0.1, 0.3
    path = Tree((-1, *range(9)), p01 / (p01 + p10), 1 - p10, p01)
    evidence = torch.randn(2, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tree, chain = marginals(path, evidence), marginals(Chain(p01, p10), evidence)
    torch.testing.assert_close(tree.log_odds, chain.log_odds, rtol=0, atol=1e-11)
    torch.testing.assert_close(tree.log_z, chain.log_z, rtol=0, atol=1e-11)
    torch.testing.assert_close(tree.pair[:, 1:], chain.pair, rtol=0, atol=1e-12)


def test_persistence_of_each_node() -> None:
    persistence = torch.linspace(0.3, 0.9, 8, dtype=torch.float64)
    prior = Tree(PARENTS, 0.6, persistence, 0.1)
    evidence = torch.linspace(-1, 1, 8, dtype=torch.float64)
    result, truth = marginals(prior, evidence), enumerate_posterior(prior, evidence)
    torch.testing.assert_close(result.probability, truth.probability, rtol=0, atol=1e-12)


def test_gradients_are_finite_at_hard_constraints() -> None:
    evidence = torch.tensor([40.0, -40, 40, -40, 40, -40, 40, -40], requires_grad=True)
    result = marginals(Tree(PARENTS, 0.6, 1.0), evidence)
    (gradient,) = torch.autograd.grad(result.log_odds.sum() + result.log_z, evidence)
    assert bool(gradient.isfinite().all())
