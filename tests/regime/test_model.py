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
        dx, dt = a - theta["x0"], b - theta["t0"]
        c = np.log(np.exp(theta["s_x"] * dx) + np.exp(theta["s_t"] * dt))
        heat = np.log((1 + np.exp(model.BEND * dt)) / 2) / model.BEND
        s = theta["s_S"] * (dx - theta["kappa"] * heat)
        expected = [1 - sigma(c), sigma(c) * (1 - sigma(s)), sigma(c) * sigma(s)]
        np.testing.assert_allclose(found[row], expected, atol=GATE)
    np.testing.assert_allclose(found.sum(1), 1, atol=GATE)


def test_the_three_meet_where_they_are_equally_likely(model, theta):
    found = model.regimes(theta, np.array([theta["x0"]]), np.array([theta["t0"]]))
    np.testing.assert_allclose(found[0], 1 / 3, atol=GATE)


def test_far_from_there_the_boundaries_are_straight(model, theta):
    far = 40.0 / min(theta["s_x"], theta["s_t"], model.BEND)
    x0, t0, kappa = (float(theta[name]) for name in ("x0", "t0", "kappa"))
    # Cold: I ends at x0. Sparse: at t0. Hot: II-B begins where dx = kappa dt, less a constant.
    x = np.array([x0, x0 - far, x0 + kappa * (far - np.log(2) / model.BEND)])
    t = np.array([t0 - far, t0, t0 + far])
    p = np.asarray(model.regimes(theta, x, t))
    np.testing.assert_allclose(p[:2, 0], 0.5, atol=1e-6)
    np.testing.assert_allclose(p[2, 1:], 0.5, atol=1e-6)


def test_the_onset_of_barriers_does_not_bend_the_other_boundary(model, theta):
    x, t = np.linspace(-1, 1, 5), np.linspace(-1, 1.5, 5)
    soft, hard = (model.depth(dict(theta, s_t=s), x, t) for s in (1.0, 20.0))
    np.testing.assert_allclose(soft, hard, atol=GATE)


def test_the_constraints_order_the_regimes(model, theta):
    # Deep in a regime (large scales) the channels move as the constraints say.
    theta = dict(theta, s_x=200.0, s_t=200.0, s_S=200.0, x0=0.0, t0=0.0, kappa=0.5)
    for name, count in (("error", 7), ("barrier", 7), ("dissimilarity", 7)):
        theta[name] = np.zeros(count)
    cold_thin, hot_thin, cold_dense = (-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0)
    _, z = model.means(theta, *np.array([cold_thin, hot_thin, cold_dense]).T)
    # One unit of cold from the boundary: the jump, and the rise of one unit.
    barrier = theta["rise_I"] + theta["cold_I"]
    assert z[0, 1] - z[1, 1] == pytest.approx(barrier, abs=1e-9)
    # What the load does is the depth's: the level at zero load (-0.6 x at x = -1) is the rest.
    heat = (np.log1p(np.exp(-model.BEND)) - np.log(2)) / model.BEND  # one unit of cold
    depth = 1 - 0.5 * heat
    alike = 0.6 + theta["rise_S"] + theta["deep_S"] * depth
    assert z[1, 2] - z[2, 2] == pytest.approx(alike, abs=1e-9)
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
    counts = (3, 3, 1, 4)
    runs = [generator.normal(size=(count, 3)) for count in counts]
    x, c = generator.uniform(-1, 1, len(counts)), generator.uniform(-1, 1, (len(counts), 1))
    mean = np.array([cell.mean(0) for cell in runs])
    data = {
        "x": x,
        "c": c,
        "ratios": np.zeros(1),
        "z": mean,
        "measured": np.zeros((len(counts), 3)),
        "floored": np.zeros((len(counts), 3), bool),
        "censor": -9.0,
        "valid": np.ones((len(counts), 1), bool),
        "replicates": np.array(counts, float),
        "dof": np.tile(np.array(counts)[:, None] - 1.0, (1, 3)),
        "within": np.array([((cell - cell.mean(0)) ** 2).sum(0) for cell in runs]),
    }

    def both(noise, seed, slope):
        here = dict(theta, noise=np.full(3, noise), seed_noise=np.full(3, seed), seed_slope=slope)
        ours = model.log_likelihood(here, data).sum()
        ours += model.spread_log_likelihood(here, data)
        centre = np.asarray(model.means(here, x, c[:, 0])[1])
        exact = 0.0
        for i, count in enumerate(counts):
            for d in range(3):
                one = seed * np.exp(-slope[d] * x[i])  # of single runs at this load
                cover = noise**2 * np.ones((count, count)) + one**2 * np.eye(count)
                mean = np.full(count, centre[i, d])
                exact += multivariate_normal.logpdf(runs[i][:, d], mean, cover)
        return float(ours), exact

    first = both(0.4, 0.7, np.array([0.0, 0.3, -0.6]))
    second = both(0.9, 0.3, np.array([0.5, 0.3, 0.2]))
    assert first[0] - second[0] == pytest.approx(first[1] - second[1], abs=1e-8)


def test_censored_barriers_use_the_tail(model, theta):
    data = {
        "x": np.zeros(1),
        "c": np.zeros((1, 1)),
        "ratios": np.zeros(1),
        "z": np.array([[0.1, -1.0, 0.2]]),
        "measured": np.array([[0.0, 0.0, 0.5]]) ** 2,
        "floored": np.array([[False, True, False]]),
        "censor": -0.9,
        "valid": np.ones((1, 1), bool),
        "replicates": np.ones(1),
        "dof": np.zeros((1, 3)),
    }
    found = model.log_likelihood(theta, data)[0]
    mean = np.asarray(model.means(theta, np.zeros(1), np.zeros(1))[1])[0]
    assert found[0] == pytest.approx(norm.logpdf(0.1, mean[0], theta["noise"][0]), abs=1e-9)
    expected = norm.cdf(-0.9, mean[1], theta["noise"][1])
    assert np.exp(found[1]) == pytest.approx(expected, abs=2e-4)
    # What the measurement adds to the noise is in the third channel.
    scale = np.hypot(theta["noise"][2], 0.5)
    assert found[2] == pytest.approx(norm.logpdf(0.2, mean[2], scale), abs=1e-9)


def test_several_knobs_add_with_positive_weights(model):
    u = np.zeros(model.size(2))
    theta = model.parameters(u, (True, False))
    np.testing.assert_allclose(theta["w"], [1, np.exp(-0.5)], atol=GATE)
    c = np.array([[1.0, 2.0]])
    expected = 1 + 2 * np.exp(-0.5)
    assert float(model.temperature(theta, c, np.zeros(2))[0]) == pytest.approx(expected)
