"""MCMC references against quadrature and exact enumeration, and against each other."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch

from probcomp.errors import InputError
from probcomp.inference.mcmc import Model, compare_priors, gibbs, inclusion_probability, nuts
from probcomp.inference.regression import Data
from probcomp.priors import (
    Chain,
    ExactK,
    Independent,
    Lattice,
    SpikeSlabGamma,
    SpikeSlabGaussian,
)

MONTE_CARLO = 0.03
"""Error of an inclusion probability from some thousand correlated draws, four chains."""


COUNT = 0.08
"""Error of the expected number of weights that are on: eight such errors, added as squares."""


def data(n: int, samples: int, *, seed: int = 0, mix: float = 0.0, noise: float = 0.5) -> Data:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, n)) + mix * rng.normal(size=(samples, 1))
    truth = np.where(rng.random(n) < 0.4, rng.normal(0, 1, n), 0)
    y = x @ truth + noise * rng.normal(size=samples)
    return Data(torch.tensor(x), torch.tensor(y), 1 / noise**2)


def enumerated_mean(model: Model) -> np.ndarray:
    """Posterior means of the weights: ridge regression under each support, and its evidence."""
    n = math.prod(model.event)
    x, y = model.data.x.numpy(), model.data.y.numpy()
    log, means = [], []
    for s in itertools.product((0, 1), repeat=n):
        shaped = torch.tensor(s, dtype=torch.float64).view(model.event)
        variance = np.where(np.array(s) == 1, model.weights.slab, model.weights.spike)
        covariance = (x * variance) @ x.T + np.eye(len(y)) / model.data.noise_precision
        evidence = scipy.stats.multivariate_normal(np.zeros(len(y)), covariance).logpdf(y)
        log.append(float(model.prior.log_prob(shaped)) + evidence)
        means.append(variance * (x.T @ np.linalg.solve(covariance, y)))
    weight = np.exp(np.array(log) - np.logaddexp.reduce(log))
    return (weight @ np.array(means)).reshape(model.event)


def enumerated(model: Model) -> np.ndarray:
    """Inclusion probabilities of a Gaussian spike and slab: each support's evidence is closed."""
    n = math.prod(model.event)
    x, y = model.data.x.numpy(), model.data.y.numpy()
    supports = np.array(list(itertools.product((0, 1), repeat=n)))
    shaped = torch.tensor(supports.reshape(-1, *model.event), dtype=torch.float64)
    log_prior = model.prior.log_prob(shaped).numpy()
    terms = []
    for s, log_p in zip(supports, log_prior, strict=True):
        variance = np.where(s == 1, model.weights.slab, model.weights.spike)
        covariance = (x * variance) @ x.T + np.eye(len(y)) / model.data.noise_precision
        zero = np.zeros(len(y))
        terms.append(log_p + scipy.stats.multivariate_normal(zero, covariance).logpdf(y))
    weight = np.exp(np.array(terms) - np.logaddexp.reduce(terms))
    return (weight[:, None] * supports).sum(0).reshape(model.event)


def quadrature(model: Model, reach: float = 4.0, points: int = 1601) -> np.ndarray:
    """Inclusion probabilities of two weights on a grid."""
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    w = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    x, y = model.data.x.double(), model.data.y.double()
    fit = -0.5 * model.data.noise_precision * (w @ x.T - y).square().sum(-1)
    total, on = 0.0, np.zeros(2)
    for s in itertools.product((0, 1), repeat=2):
        support = torch.tensor(s).expand_as(w)
        log = model.weights.log_prob(w, support).sum(-1) + fit
        prior = float(model.prior.log_prob(torch.tensor(s, dtype=torch.float64)))
        mass = float((log - fit.max() + prior).exp().sum())
        total, on = total + mass, on + mass * np.array(s)
    return on / total


HIERARCHY = Model(
    data(2, 6, seed=2, mix=1.0, noise=1.0), Chain(0.3, 0.4), SpikeSlabGamma(1.0, 1.0, 1.0, 0.01)
)


@pytest.mark.slow
def test_gamma_hierarchy_against_quadrature() -> None:
    """Two correlated weights, precisions integrated out: the sampler gives the grid's answer."""
    exact = quadrature(HIERARCHY)
    coarse = quadrature(HIERARCHY, points=801)
    np.testing.assert_allclose(exact, coarse, atol=2e-3)  # the grid has converged
    assert exact.min() > 0.1  # undecided, so agreement says something
    assert exact.max() < 0.9
    found = nuts(HIERARCHY, chains=2, warmup=300)
    np.testing.assert_allclose(inclusion_probability(found), exact, atol=MONTE_CARLO)


def plain_gibbs(model: Model, chains: int, draws: int, burn: int) -> np.ndarray:
    """Inclusion probabilities of two weights under a gamma hierarchy and a chain, in NumPy.

    In turn: each support given its weight (the precision summed out), precisions, both weights.
    """
    rng = np.random.default_rng(0)
    x, y, beta = model.data.x.numpy(), model.data.y.numpy(), model.data.noise_precision
    prior, form = model.prior, model.weights
    on = prior.p01 / (prior.p01 + prior.p10)
    joint = np.array([[(1 - on) * (1 - prior.p01), (1 - on) * prior.p01],
                      [on * prior.p10, on * (1 - prior.p10)]])  # fmt: skip
    slab = scipy.stats.t(2 * form.a, scale=math.sqrt(form.b / form.a))
    spike = scipy.stats.t(2 * form.a_spike, scale=math.sqrt(form.b_spike / form.a_spike))
    w, s = rng.normal(size=(chains, 2)), np.ones((chains, 2), int)
    total = np.zeros(2)
    for step in range(burn + draws):
        for n in (0, 1):
            table = joint if n else joint.T  # rows: the other support
            odds = table[s[:, 1 - n], 1] / table[s[:, 1 - n], 0]
            odds = odds * slab.pdf(w[:, n]) / spike.pdf(w[:, n])
            p = odds / (1 + odds)
            s[:, n] = rng.random(chains) < p
            total[n] += p.mean() if step >= burn else 0
        rate = np.where(s, form.b, form.b_spike) + 0.5 * w**2
        rho = rng.gamma(np.where(s, form.a, form.a_spike) + 0.5, 1 / rate)
        precision = beta * x.T @ x + rho[:, :, None] * np.eye(2)
        root = np.linalg.cholesky(precision)
        mean = np.linalg.solve(precision, np.broadcast_to(beta * x.T @ y, (chains, 2))[..., None])
        noise = np.linalg.solve(root.transpose(0, 2, 1), rng.normal(size=(chains, 2, 1)))
        w = (mean + noise)[..., 0]
    return total / draws


SIXTY_THOUSAND = 0.005
"""Error of an inclusion probability from sixty thousand draws of two weights."""


def test_quadrature_agrees_with_sixty_thousand_draws_of_plain_gibbs() -> None:
    found = plain_gibbs(HIERARCHY, chains=300, draws=200, burn=100)
    np.testing.assert_allclose(found, quadrature(HIERARCHY, points=801), atol=SIXTY_THOUSAND)


@pytest.mark.slow
def test_gamma_hierarchy_by_gibbs() -> None:
    found = gibbs(HIERARCHY, chains=2, draws=4000)
    exact = quadrature(HIERARCHY)
    np.testing.assert_allclose(inclusion_probability(found), exact, atol=MONTE_CARLO)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prior", "shape"),
    [(Chain(0.2, 0.3), None), (Lattice(-0.3, 0.8), (4, 2)), (Independent(0.3), None)],
)
def test_nuts_against_enumeration(prior, shape) -> None:
    model = Model(data(8, 20, mix=0.7), prior, SpikeSlabGaussian(1.0, 0.02), shape)
    found = nuts(model)
    attrs = found["posterior"].attrs
    assert attrs["r_hat"] < 1.05
    assert attrs["ess"] > 200
    exact = enumerated(model)
    np.testing.assert_allclose(inclusion_probability(found), exact, atol=MONTE_CARLO)
    count = float(inclusion_probability(found).sum())
    assert count == pytest.approx(float(exact.sum()), abs=COUNT)
    mean = np.asarray(found["posterior"]["weight"]).mean((0, 1)).reshape(model.event)
    np.testing.assert_allclose(mean, enumerated_mean(model), atol=MONTE_CARLO)


@pytest.mark.slow
def test_gibbs_against_enumeration() -> None:
    # Noisy data: a flip moves its weight, so where the data are sharp chains stay where they began.
    model = Model(data(6, 12, noise=3.0), Chain(0.2, 0.3), SpikeSlabGaussian(1.0, 0.1))
    found = gibbs(model, chains=4, draws=4000)
    np.testing.assert_allclose(inclusion_probability(found), enumerated(model), atol=MONTE_CARLO)
    mean = np.asarray(found["posterior"]["weight"]).mean((0, 1))
    np.testing.assert_allclose(mean, enumerated_mean(model), atol=4 * MONTE_CARLO)  # weights of 1


@pytest.mark.slow
def test_arviz_sees_everything() -> None:
    import arviz

    found = nuts(HIERARCHY, chains=2, warmup=200, draws=200)
    table = arviz.summary(found, var_names=["weight"])
    assert {"r_hat", "ess_bulk"} <= set(table.columns)
    assert np.asarray(found["log_likelihood"]["y"]).shape == (2, 200, 6)
    assert np.asarray(found["sample_stats"]["diverging"]).shape == (2, 200)
    again = nuts(HIERARCHY, chains=2, warmup=200, draws=200)
    np.testing.assert_array_equal(found["posterior"]["weight"], again["posterior"]["weight"])


@pytest.mark.slow
def test_leave_one_out_prefers_the_prior_that_fits() -> None:
    """Dense weights: a prior that expects almost nothing to matter predicts worse."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 4))
    y = x @ np.array([1.0, -1.2, 0.8, 1.1]) + 0.5 * rng.normal(size=40)
    given = Data(torch.tensor(x), torch.tensor(y), 4.0)
    slab = SpikeSlabGaussian(1.0, 0.02)
    narrow = SpikeSlabGaussian(0.2, 0.02)
    fits = {
        "wide": nuts(Model(given, Independent(0.5), slab), chains=2, warmup=200, draws=300),
        "narrow": nuts(Model(given, Independent(0.5), narrow), chains=2, warmup=200, draws=300),
    }
    table = compare_priors(fits)
    assert table.index[0] == "wide"
    with pytest.raises(InputError, match="two fits"):
        compare_priors({"one": fits["wide"]})
    other = nuts(HIERARCHY, chains=1, warmup=10, draws=20)
    with pytest.raises(InputError, match="different observations"):
        compare_priors({"one": fits["wide"], "two": other})


def test_quadrature_and_enumeration_agree() -> None:
    """The two references of this file, on the one problem that both can do."""
    model = Model(HIERARCHY.data, HIERARCHY.prior, SpikeSlabGaussian(1.0, 0.02))
    np.testing.assert_allclose(quadrature(model, points=801), enumerated(model), atol=1e-4)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="do not fit 2 weights"):
        Model(HIERARCHY.data, Lattice(0.0, 1.0), HIERARCHY.weights, (2, 2))
    with pytest.raises(InputError, match="no width"):
        Model(HIERARCHY.data, Independent(0.5), SpikeSlabGaussian(1.0, 0.0))
    with pytest.raises(InputError, match="at most 12 supports"):
        gibbs(Model(data(13, 20), Independent(0.5), HIERARCHY.weights))


@pytest.mark.parametrize("before", [False, True])
def test_the_precision_of_jax_is_left_as_it_was(before: bool) -> None:
    import jax

    no_sum = Model(data(5, 20), ExactK(3), SpikeSlabGaussian(1.0, 0.01))
    unequal = Model(data(5, 20), Independent(0.4), SpikeSlabGamma(a=2.0))
    with jax.enable_x64(before):
        for sampler, model in ((nuts, no_sum), (gibbs, unequal)):
            with pytest.raises(InputError):
                sampler(model)
            assert jax.config.jax_enable_x64 is before
