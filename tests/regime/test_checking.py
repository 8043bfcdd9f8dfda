"""ArviZ data, leave-one-out scores and predictive checks of a fit."""

import numpy as np
import pytest

from probcomp.regime import RegimeModel
from probcomp.regime.checking import (
    _refitted,
    leave_one_out,
    mid_p,
    plot_predictive,
    predictive_check,
    predictive_draws,
    to_arviz,
)
from probcomp.regime.model import size, spread_log_likelihood
from probcomp.regime.sampler import Convergence, model_data
from tests.regime.conftest import Kept

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # ArviZ warns of large Pareto k


def test_arviz_holds_the_fit(spin_glass):
    model, _ = spin_glass
    data = to_arviz(model)
    posterior = data["posterior"]
    assert dict(posterior.sizes)["chain"] == 4
    assert "kappa" in posterior
    np.testing.assert_allclose(posterior["x0"].values.reshape(-1), model.parameters["x0"])
    assert data["log_likelihood"]["cells"].shape[-1] == len(model.table)
    assert int(data["sample_stats"]["diverging"].sum()) == model.convergence.divergences


def test_leave_one_out_is_below_the_fit_and_flags_what_it_cannot_say(spin_glass):
    model, _ = spin_glass
    found = leave_one_out(model)
    log_likelihood = model.log_likelihood().sum(-1)
    inside = np.log(np.exp(log_likelihood).mean(0)).sum()
    assert found.elpd < inside
    assert found.elpd == pytest.approx(found.pointwise.sum())
    assert len(found.pointwise) == len(model.table)
    assert set(found.unreliable) == set(np.flatnonzero(found.pareto_k > 0.7))
    assert found.refitted == ()


def repeated(spread):
    """A model of few draws near the prior's mean, on nine cells with three runs each.

    ``spread`` is by how much the logarithms of the errors of the runs of the last cell differ.
    """
    epochs, density = (v.ravel() for v in np.meshgrid([20.0, 80, 160], [0.05, 0.2, 0.8]))
    cell, run = np.tile(np.arange(9), 3), np.arange(27) // 9 - 1
    off = np.where(cell == 8, spread, 0.05) * run
    columns = {
        "epochs": epochs[cell],
        "density": density[cell],
        "test_error": 0.1 / density[cell] ** 0.2 * np.exp(off),
        "lmc": np.where(density[cell] < 0.1, -0.3 * np.exp(off), 0.0),
        "cka": 1 - 0.1 * np.exp(off) * (1 - density[cell] / 2),
    }
    u = 0.1 * np.random.default_rng(0).standard_normal((1, 40, size(1)))
    draws = Kept(u, np.zeros(40, bool))
    return RegimeModel.of_draws(columns, draws, Convergence(1.0, 400, 0, 40))


@pytest.fixture
def asked(monkeypatch):
    """What refits are asked for; they end at once, in the state of ``gates``."""
    calls = []

    def sample(data, physical, *, seed):
        calls.append(data)
        return repeated(0.05).mcmc, sample.gates

    sample.gates = Convergence(1.0, 400, 0, 40)
    monkeypatch.setattr("probcomp.regime.sampler.sample", sample)
    monkeypatch.setattr("probcomp.regime.checking.BAD_K", -np.inf)
    calls.append(sample)
    return calls


def test_a_refit_sees_neither_the_mean_nor_the_spread_of_what_is_left_out(asked):
    seen = []
    for spread in (0.05, 0.4):
        model = repeated(spread)
        _refitted(model, 8)
        theta = {name: value[0] for name, value in model.parameters.items()}
        own, _ = model_data(model.table, model.coordinates)
        seen.append([float(spread_log_likelihood(theta, data)) for data in (asked[-1], own)])
        assert np.asarray(asked[-1]["valid"])[:, 0].tolist() == [True] * 8 + [False]
    # In the coordinates of each table: the other cells' spread is the same but for their scale.
    held, whole = np.abs(np.diff(seen, axis=0))[0]
    assert held < 0.1 * whole


def test_a_refit_that_did_not_converge_is_marked_and_not_used(asked):
    model = repeated(0.05)
    asked[0].gates = Convergence(1.4, 9, 0, 40)
    failed = leave_one_out(model, refit=2)
    assert len(failed.not_converged) == 2
    assert failed.refitted == ()
    assert set(failed.not_converged) <= set(failed.unreliable)
    asked[0].gates = Convergence(1.0, 400, 0, 40)
    done = leave_one_out(model, refit=2)
    assert done.refitted == failed.not_converged
    assert done.not_converged == ()
    assert np.isnan(done.pareto_k[list(done.refitted)]).all()
    assert set(np.flatnonzero(done.pointwise != failed.pointwise)) == set(done.refitted)


@pytest.mark.slow
def test_a_refit_agrees_with_importance_sampling_where_that_is_to_be_trusted(spin_glass):
    model, _ = spin_glass
    found = leave_one_out(model)
    inside = np.log(np.exp(model.log_likelihood().sum(-1)).mean(0))
    gap = np.where(found.pareto_k < 0.5, inside - found.pointwise, 0.0)
    cell = int(np.argmax(gap))
    assert _refitted(model, cell) == pytest.approx(found.pointwise[cell], abs=gap[cell] / 2)


def test_ties_count_half():
    assert mid_p(np.array([0.0, 1.0, 1.0, 2.0]), 1.0) == 0.5
    assert mid_p(np.array([0.0, 0.0]), 1.0) == 0.0


def test_cells_without_a_barrier_are_no_sign_of_a_misfit():
    """Six of nine cells lie at the floor, in the runs and in every draw."""
    model = repeated(0.05)
    drawn, seen = predictive_draws(model)
    assert np.sum(seen[:, 1] == seen[:, 1].min()) == 6
    assert np.mean(drawn[:, :, 1].min(1) == seen[:, 1].min()) > 0.9
    assert predictive_check(model)["barrier"]["smallest"] == pytest.approx(0.5, abs=0.05)


def test_replicated_data_look_like_the_observed(spin_glass):
    model, _ = spin_glass
    drawn, seen = predictive_draws(model)
    assert drawn.shape == (len(model.draws), *seen.shape)
    # The fit explains these data: residuals are of the size of the noise it states.
    inside = (seen > np.quantile(drawn, 0.01, axis=0)) & (seen < np.quantile(drawn, 0.99, axis=0))
    assert inside[:, [0, 2]].mean() > 0.9
    for channel in predictive_check(model).values():
        assert all(0 <= p <= 1 for p in channel.values())
        assert 0.005 < channel["spread"] < 0.995


def test_the_plot_has_a_panel_a_channel(spin_glass):
    figure = plot_predictive(spin_glass[0], draws=5)
    assert [axes.get_xlabel().split()[0] for axes in figure.axes] == [
        "error",
        "barrier",
        "dissimilarity",
    ]
