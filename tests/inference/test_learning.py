"""EM steps: they recover parameters, and the evidence does not fall."""

from itertools import pairwise

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.learning import learn, learn_chain, learn_gated_chain, learn_tree
from probcomp.inference.supports import marginals
from probcomp.priors import Blocks, Chain, ExactK, GatedChain, Independent, Lattice, NofM, Tree


def observed(prior, shape: tuple[int, ...], *, noise: float = 1.0, seed: int = 0) -> torch.Tensor:
    """Log-odds of supports drawn from ``prior`` and seen through Gaussian noise."""
    generator = torch.Generator().manual_seed(seed)
    support = prior.sample(shape, generator=generator).double()
    measured = support + noise * torch.randn(shape, generator=generator, dtype=torch.float64)
    return (measured - 0.5) / noise**2  # log N(x; 1, noise^2) / N(x; 0, noise^2)


def climb(prior, evidence: torch.Tensor, step, rounds: int = 60) -> tuple[object, list[float]]:
    values = []
    for _ in range(rounds):
        result = marginals(prior, evidence)
        values.append(result.log_z.sum().item())
        prior = step(prior, result)
    return prior, values


def test_chain_is_recovered_from_noisy_supports() -> None:
    evidence = observed(Chain(0.05, 0.2), (100, 200), noise=0.7)
    found, values = climb(Chain(0.3, 0.3), evidence, learn_chain)
    # 20 thousand sites, 800 runs: standard error 4 % of p01 with the noise; three of them.
    assert found.p01 == pytest.approx(0.05, rel=0.12)
    assert found.p10 == pytest.approx(0.2, rel=0.12)
    assert min(b - a for a, b in pairwise(values)) > -1e-3 * abs(values[-1])
    assert values[-1] > values[0]


def test_gated_chain_is_recovered() -> None:
    evidence = observed(GatedChain(0.3, Chain(0.1, 0.2)), (1000, 60), noise=0.7)
    found, values = climb(GatedChain(0.5, Chain(0.3, 0.3)), evidence, learn_gated_chain)
    # 300 open rows, 1200 runs: standard errors 0.015, and 3 % before the noise, which doubles it.
    assert found.gate == pytest.approx(0.3, abs=0.045)
    assert found.chain.p01 == pytest.approx(0.1, rel=0.18)
    assert found.chain.p10 == pytest.approx(0.2, rel=0.18)
    assert values[-1] > values[0]


def test_tree_em_never_lowers_the_evidence_and_recovers() -> None:
    truth = Tree((-1, 0, 0, 1, 1, 2, 2), 0.4, 0.8, 0.1)
    evidence = observed(truth, (3000, 7), noise=0.7)
    found, values = climb(Tree(truth.parents, 0.5, 0.5, 0.3), evidence, learn_tree, rounds=40)
    assert min(b - a for a, b in pairwise(values)) > -1e-8
    assert found.density == pytest.approx(0.4, abs=0.06)
    assert found.persistence == pytest.approx(0.8, abs=0.06)
    assert found.leak == pytest.approx(0.1, abs=0.04)


def test_nested_trees_stay_nested() -> None:
    prior = Tree((-1, 0, 0), 0.5, 0.5)
    result = marginals(prior, observed(prior, (50, 3)))
    assert learn_tree(prior, result).leak == 0


def test_one_exact_step_on_certain_supports_counts_transitions() -> None:
    support = torch.tensor([0.0, 0, 1, 1, 1, 0, 0, 1], dtype=torch.float64)
    result = marginals(Chain(0.5, 0.5), 80 * support - 40)
    found = learn_chain(Chain(0.5, 0.5), result)
    assert found.p01 == pytest.approx(2 / 4)
    assert found.p10 == pytest.approx(1 / 3)


def test_empty_rows_keep_the_old_value_and_the_floor_holds() -> None:
    result = marginals(Chain(0.2, 0.3), torch.full((10,), -40.0, dtype=torch.float64))
    found = learn_chain(Chain(0.2, 0.3), result, floor=1e-3)
    assert found.p01 == 1e-3
    assert 1e-3 <= found.p10 <= 1 - 1e-3


def test_learn_picks_the_step_by_type() -> None:
    evidence = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for prior in (
        Independent(0.1),
        Chain(0.1, 0.3),
        GatedChain(0.5, Chain(0.1, 0.3)),
        Lattice(0.0, 0.5),
        Blocks((2, 2), Lattice(0.0, 0.5)),
        Tree((-1, *range(7)), 0.5, 0.5, 0.2),
    ):
        moved = learn(prior, marginals(prior, evidence))
        assert type(moved) is type(prior)
        assert moved != prior
    for fixed in (NofM(2, 4), ExactK(3)):
        assert learn(fixed, marginals(fixed, evidence)) is fixed


def test_learning_without_pairs_is_refused() -> None:
    result = marginals(Independent(0.1), torch.zeros(4))
    with pytest.raises(InputError, match="neighbour statistics"):
        learn_chain(Chain(0.1, 0.1), result)
    with pytest.raises(InputError, match="gates"):
        learn_gated_chain(GatedChain(0.1, Chain(0.1, 0.1)), result)
