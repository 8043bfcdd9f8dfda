"""ArviZ data, leave-one-out scores and predictive checks of a fit."""

import numpy as np
import pytest

from probcomp.regime.checking import (
    leave_one_out,
    plot_predictive,
    predictive_check,
    predictive_draws,
    to_arviz,
)

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


@pytest.mark.slow
def test_refits_replace_the_worst_cells(spin_glass):
    model, _ = spin_glass
    before = leave_one_out(model)
    if not before.unreliable:
        pytest.skip("no cell has a large Pareto k here")
    after = leave_one_out(model, refit=1)
    (cell,) = after.refitted
    assert cell == int(np.nanargmax(before.pareto_k))
    assert np.isnan(after.pareto_k[cell])
    assert after.pointwise[cell] != before.pointwise[cell]


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
