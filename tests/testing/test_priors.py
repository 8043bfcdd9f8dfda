"""Every prior of the package, held to the contract that ships for new ones."""

import pytest
import torch

from probcomp.priors import (
    Blocks,
    Chain,
    ExactK,
    GatedChain,
    Independent,
    Lattice,
    NofM,
    SupportPrior,
    Tree,
)
from probcomp.testing.priors import PriorContract


class TestIndependent(PriorContract):
    shape = (6,)

    def prior(self) -> SupportPrior:
        return Independent(0.3)


class TestChain(PriorContract):
    shape = (9,)

    def prior(self) -> SupportPrior:
        return Chain(0.1, 0.3)


class TestRepulsiveChain(PriorContract):
    shape = (7,)

    def prior(self) -> SupportPrior:
        return Chain.from_coupling(0.4, -1.5)


class TestGatedChain(PriorContract):
    shape = (8,)

    def prior(self) -> SupportPrior:
        return GatedChain(0.4, Chain(0.1, 0.3))


class TestLattice(PriorContract):
    shape = (3, 4)

    def prior(self) -> SupportPrior:
        return Lattice(-0.3, 1.1)


class TestLatticeWiderThanTall(PriorContract):
    shape = (2, 5)

    def prior(self) -> SupportPrior:
        return Lattice(0.2, 2.5)


class TestBlocksOverLattice(PriorContract):
    shape = (3, 4)

    def prior(self) -> SupportPrior:
        return Blocks((2, 2), Lattice(0.2, 0.9))


class TestBlocksOverChain(PriorContract):
    shape = (3, 4)

    def prior(self) -> SupportPrior:
        return Blocks((2, 3), Chain(0.2, 0.4))


class TestTwoOfFour(PriorContract):
    shape = (8,)

    def prior(self) -> SupportPrior:
        return NofM(2, 4)


class TestExactK(PriorContract):
    shape = (9,)

    def prior(self) -> SupportPrior:
        return ExactK(3)


class TestNestedTree(PriorContract):
    shape = (8,)

    def prior(self) -> SupportPrior:
        return Tree((-1, 0, 0, 1, 1, -1, 5, 5), density=0.6, persistence=0.7)


class TestStationaryTree(PriorContract):
    shape = (7,)

    def prior(self) -> SupportPrior:
        return Tree.stationary((3, 0, 0, -1, 1, -1, 5), density=0.6, persistence=0.7)


def test_contract_catches_a_wrong_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """A contract that cannot fail proves nothing: break the chain's solver, then its sampler."""
    contract = TestChain()
    contract.test_marginals_match_enumeration(0)
    honest = Chain.log_zero
    monkeypatch.setattr(Chain, "log_zero", lambda self, n, like: honest(self, n, like) + 1e-6)
    with pytest.raises(AssertionError):
        contract.test_marginals_match_enumeration(0)
    with pytest.raises(AssertionError):
        contract.test_no_evidence_changes_nothing()
    monkeypatch.setattr(
        Chain,
        "sample",
        lambda self, shape, generator=None: torch.rand(shape, generator=generator) < 0.3,
    )
    with pytest.raises(AssertionError):
        contract.test_samples_match_marginals()
