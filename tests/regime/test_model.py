"""The density of the model against plain loops and scipy."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

GATE = 1e-12  # float64 arithmetic in two orders


@pytest.fixture(scope="module")
def model():
    import numpyro

    numpyro.enable_x64()
    from probcomp.regime import model

    return model


@pytest.fixture
def theta(model):
    u = np.random.default_rng(0).normal(0, 0.7, model.size(1))
    return {name: np.asarray(value) for name, value in model.parameters(u, (False,)).items()}


def sigma(v):
    return 1 / (1 + np.exp(-v))


def test_regimes_against_the_formulas(model, theta):
    x, t = np.array([-1.2, 0.3, 1.4]), np.array([1.0, -0.4, -1.3])
    found = np.asarray(model.regimes(theta, x, t))
    for row, (a, b) in enumerate(zip(x, t)):
        c = np.log(
            0.5 * np.exp(theta["s_x"] * (a - theta["x0"]))
            + 0.5 * np.exp(theta["s_t"] * (b - theta["t0"]))
        )
        s = theta["s_S"] * ((a - theta["x0"]) - theta["kappa"] * (b - theta["t0"]))
        expected = [1 - sigma(c), sigma(c) * (1 - sigma(s)), sigma(c) * sigma(s)]
        np.testing.assert_allclose(found[row], expected, atol=GATE)
    np.testing.assert_allclose(found.sum(1), 1, atol=GATE)


def test_the_constraints_order_the_regimes(model, theta):
    # Deep in a regime (large scales) the channels move as the constraints say.
    theta = dict(theta, s_x=200.0, s_t=200.0, s_S=200.0, x0=0.0, t0=0.0, kappa=0.5)
    theta["barrier"] = np.zeros(7)
    theta["error"] = np.zeros(7)
    cold_thin, hot_thin, cold_dense = (-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0)
    _, z = model.means(theta, *np.array([cold_thin, hot_thin, cold_dense]).T)
    assert z[0, 1] - z[1, 1] == pytest.approx(theta["rise_I"], abs=1e-9)
    step = 0.1
    for (x, t), slope in ((cold_thin, -theta["cool_I"]), (hot_thin, theta["heat_A"])):
        _, ends = model.means(theta, np.array([x, x]), np.array([t, t + step]))
        assert (ends[1, 0] - ends[0, 0]) / step == pytest.approx(slope, abs=1e-9)


def test_tail_is_the_normal_tail():
    from probcomp.regime.model import log_normal_tail

    v = np.linspace(-6, 6, 400)
    np.testing.assert_allclose(np.exp(log_normal_tail(v)), norm.cdf(v), atol=2e-4)


def test_replicates_have_their_exact_likelihood(model, theta):
    """Cell means and spread together equal the joint normal of all runs, up to a constant."""
    generator = np.random.default_rng(2)
    count, cells = 3, 4
    runs = generator.normal(size=(cells, count, 3))
    x, c = generator.uniform(-1, 1, cells), generator.uniform(-1, 1, (cells, 1))
    mean = runs.mean(1)
    data = {
        "x": x,
        "c": c,
        "z": mean,
        "floored": np.zeros((cells, 3), bool),
        "censor": -9.0,
        "valid": np.ones((cells, 1), bool),
        "replicates": np.full(cells, float(count)),
        "dof": np.full(3, float(cells * (count - 1))),
        "within": ((runs - mean[:, None]) ** 2).sum((0, 1)),
    }

    def both(noise, seed):
        here = dict(theta, noise=np.full(3, noise), seed_noise=np.full(3, seed))
        ours = model.log_likelihood(here, data, (0.0,)).sum()
        ours += model.spread_log_likelihood(here, data)
        cover = noise**2 * np.ones((count, count)) + seed**2 * np.eye(count)
        centre = np.asarray(model.means(here, x, c[:, 0])[1])
        exact = sum(
            multivariate_normal.logpdf(runs[i, :, d], np.full(count, centre[i, d]), cover)
            for i in range(cells)
            for d in range(3)
        )
        return float(ours), exact

    first, second = both(0.4, 0.7), both(0.9, 0.3)
    assert first[0] - second[0] == pytest.approx(first[1] - second[1], abs=1e-8)


def test_censored_barriers_use_the_tail(model, theta):
    data = {
        "x": np.zeros(1),
        "c": np.zeros((1, 1)),
        "z": np.array([[0.1, -1.0, 0.2]]),
        "floored": np.array([[False, True, False]]),
        "censor": -0.9,
        "valid": np.ones((1, 1), bool),
        "replicates": np.ones(1),
        "dof": np.zeros(3),
    }
    found = model.log_likelihood(theta, data, (0.0,))[0]
    mean = np.asarray(model.means(theta, np.zeros(1), np.zeros(1))[1])[0]
    assert found[0] == pytest.approx(norm.logpdf(0.1, mean[0], theta["noise"][0]), abs=1e-9)
    expected = norm.cdf(-0.9, mean[1], theta["noise"][1])
    assert np.exp(found[1]) == pytest.approx(expected, abs=2e-4)


def test_several_knobs_add_with_positive_weights(model):
    u = np.zeros(model.size(2))
    theta = model.parameters(u, (True, False))
    np.testing.assert_allclose(theta["w"], [1, np.exp(-0.5)], atol=GATE)
    c = np.array([[1.0, 2.0]])
    expected = 1 + 2 * np.exp(-0.5)
    assert float(model.temperature(theta, c, (0.0, 0.0))[0]) == pytest.approx(expected)
