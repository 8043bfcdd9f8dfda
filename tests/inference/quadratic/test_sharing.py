"""Which layers share a value: against sums over all ways to share."""

import itertools
import math

import pytest
import torch

from probcomp.inference.quadratic.sharing import share_values


def table(layers: int, values: int = 7, spread: float = 1.5, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    likelihood = spread * torch.randn(layers, values, dtype=torch.double, generator=generator)
    prior = torch.rand(values, dtype=torch.double, generator=generator).log().log_softmax(0)
    return likelihood, prior


def by_partitions(likelihood, prior, concentration: float) -> torch.Tensor:
    """Sum over labellings in order of first appearance: each partition once.

    ``p(partition) ~ c^clusters prod (size - 1)!``, the Chinese restaurant process.
    """
    layers = len(likelihood)
    scores, posteriors = [], []
    for labels in itertools.product(range(layers), repeat=layers):
        if list(dict.fromkeys(labels)) != list(range(len(set(labels)))):
            continue
        score, q = 0.0, torch.zeros_like(likelihood)
        for cluster in set(labels):
            members = [i for i, label in enumerate(labels) if label == cluster]
            joint = prior + likelihood[members].sum(0)
            score += float(joint.logsumexp(0)) + math.log(concentration)
            score += math.lgamma(len(members))
            q[members] = joint.softmax(0)
        scores.append(score)
        posteriors.append(q)
    weight = torch.tensor(scores, dtype=torch.double).softmax(0)
    return (weight[:, None, None] * torch.stack(posteriors)).sum(0)


@pytest.mark.parametrize("concentration", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("layers", [2, 4])
def test_against_all_partitions(layers: int, concentration: float) -> None:
    likelihood, prior = table(layers)
    truth = by_partitions(likelihood, prior, concentration)
    found = share_values(likelihood, prior, concentration=concentration, sweeps=800)
    torch.testing.assert_close(found, truth, rtol=0, atol=0.05)  # sampling


def test_one_layer_is_bayes_rule() -> None:
    likelihood, prior = table(1)
    torch.testing.assert_close(
        share_values(likelihood, prior)[0], (likelihood[0] + prior).softmax(0)
    )


def test_limits_of_the_concentration() -> None:
    likelihood, prior = table(3)
    apart = share_values(likelihood, prior, concentration=1e9)
    torch.testing.assert_close(apart, (likelihood + prior).softmax(1))
    together = share_values(likelihood, prior, concentration=1e-9)
    torch.testing.assert_close(together, (likelihood.sum(0) + prior).softmax(0).expand(3, -1))


def test_values_that_one_layer_excludes_are_not_shared_with_it() -> None:
    """A layer that no cluster fits stays alone, without a NaN."""
    likelihood, prior = table(3)
    likelihood[0, :4], likelihood[1:, 4:] = -torch.inf, -torch.inf
    found = share_values(likelihood, prior)
    assert float(found[0, :4].sum()) == 0
    assert float(found[1:, 4:].sum()) == 0
    torch.testing.assert_close(found.sum(1), torch.ones(3, dtype=torch.double))
    torch.testing.assert_close(found[0], (likelihood[0] + prior).softmax(0))


def test_the_seed_decides_the_draws() -> None:
    likelihood, prior = table(4)
    first = share_values(likelihood, prior, seed=3, sweeps=20)
    assert torch.equal(first, share_values(likelihood, prior, seed=3, sweeps=20))
    assert not torch.equal(first, share_values(likelihood, prior, seed=4, sweeps=20))
