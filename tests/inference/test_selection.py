"""One call for a sparse regression: every inference against the sum over supports."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.regression import Data
from probcomp.inference.selection import EXACT, select_variables
from probcomp.priors import Chain, ExactK, Independent, Lattice
from tests.inference.test_regression import CHAIN, SLAB, SPIKE, exact, problem

FEW_MEAN, FEW_WORST = 0.03, 0.1
"""Largest error of a problem with fewer samples than weights: measured 0.021 and 0.082."""


def select(data, prior=CHAIN, inference: str = "auto"):
    return select_variables(data, prior, slab=SLAB, spike=SPIKE, inference=inference)


@pytest.mark.parametrize("prior", [CHAIN, Independent(0.3)], ids=repr)
def test_the_default_is_exact_for_few_weights(prior) -> None:
    data = problem(3, correlated=True)
    truth, evidence = exact(data, prior)
    found = select(data, prior)
    assert found.inference == "exact"
    torch.testing.assert_close(found.probability, truth, rtol=0, atol=1e-7)
    assert found.log_evidence == pytest.approx(evidence, abs=1e-6)


def test_exact_means_are_those_of_each_support_averaged() -> None:
    """Supports in several parts; the mean by Woodbury, in sample space."""
    data = problem(0, correlated=False, n=13, samples=20)
    found = select(data, inference="exact")
    truth, evidence = exact(data, CHAIN)
    torch.testing.assert_close(found.probability, truth, rtol=0, atol=1e-7)
    assert found.log_evidence == pytest.approx(evidence, abs=1e-6)
    one = problem(0, correlated=False, n=1)
    p, mean = exact(one, CHAIN)[0][0], 0.0
    for on, precision in ((p, SLAB), (1 - p, SPIKE)):
        mean += on * one.linear[0] / (one.gram[0, 0] + precision)
    torch.testing.assert_close(select(one).mean[0], mean, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("inference", "error", "nats"), [("ep", 0.03, 0.1), ("joint", 0.15, 2.5), ("turbo", 0.4, 2.5)]
)
def test_others_are_near_it(inference: str, error: float, nats: float) -> None:
    for seed in range(3):
        data = problem(seed, correlated=True)
        truth = select(data)
        found = select(data, inference=inference)
        assert found.inference == inference
        assert float((found.probability - truth.probability).abs().max()) < error
        assert float((found.mean - truth.mean).abs().max()) < error
        assert found.log_evidence == pytest.approx(truth.log_evidence, abs=nats)
        if inference != "ep":
            assert found.log_evidence <= truth.log_evidence


def test_many_weights_take_expectation_propagation() -> None:
    data = problem(5, correlated=True, n=EXACT + 1, samples=34)
    found = select(data)
    assert found.inference == "ep"
    assert found.converged
    truth = select(data, inference="exact").probability
    torch.testing.assert_close(found.probability, truth, rtol=0, atol=0.01)


@pytest.mark.slow
def test_fewer_samples_than_weights() -> None:
    """The Gram matrix is singular, the posterior is not, and sites are at their limit."""
    errors = []
    for seed in range(12):
        data = problem(seed, correlated=False, n=13, samples=8)
        truth = select(data, inference="exact").probability
        found = select(data, inference="ep").probability
        errors.append(float((found - truth).abs().max()))
    assert sum(errors) / len(errors) < FEW_MEAN
    assert max(errors) < FEW_WORST


def test_bad_input_is_refused() -> None:
    data = problem(0, correlated=False)
    with pytest.raises(InputError, match="Did you mean"):
        select(data, inference="epp")
    with pytest.raises(InputError, match="slab < spike"):
        select_variables(data, CHAIN, slab=2.0, spike=1.0)
    with pytest.raises(InputError, match="for grids"):
        select(data, Lattice(0.0, 0.5))
    with pytest.raises(InputError, match="Chain or Independent"):
        select(data, ExactK(3), inference="joint")
    wide = Data(torch.randn(4, 21), torch.randn(4), 1.0)
    with pytest.raises(InputError, match="too many"):
        select(wide, Chain(0.1, 0.3), inference="exact")
