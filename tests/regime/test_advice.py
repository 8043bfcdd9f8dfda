"""Advice as a user reads it."""

import json

import numpy as np
import pytest

from probcomp.errors import InputError
from probcomp.regime import RegimeModel, advise


def test_a_hot_ferromagnet_should_be_cooled(spin_glass):
    said = advise(spin_glass[0], density=2.0, at={"temperature": 2.2})
    assert said.action == "lower"
    assert said.turn == "decrease"
    assert said.best < 1
    assert said.gain_points > 5
    assert said.probability["lower"] > 0.95
    assert sum(said.probability.values()) == pytest.approx(1)
    assert said.error_interval[0] < said.error_points < said.error_interval[1]


def test_the_coldest_is_the_default_setting_and_is_kept_when_best(spin_glass):
    said = advise(spin_glass[0], density=2.0)
    assert said.at["temperature"] == pytest.approx(0.5)
    assert said.probability["lower"] == 0  # there is nothing colder
    assert said.regime["II-B"] > 0.5


def test_pilots_go_on_while_a_dearer_one_promises_more(spin_glass, monkeypatch):
    """The best for its cost promises little; the stop rule asks for the largest of all."""
    from probcomp.regime.design import NextPilot

    asked = []
    pilot = NextPilot({"temperature": 1.0}, 1.0, 0.1, 0.01, 1.0, "decision", largest_gain=0.3)
    monkeypatch.setattr("probcomp.regime.advice.next_pilots", lambda *a, **b: [pilot])
    monkeypatch.setattr(
        "probcomp.regime.advice.should_stop", lambda shares, gain: asked.append(gain)
    )
    assert advise(spin_glass[0], density=1.0).next is pilot
    assert asked == [0.3]


def test_the_next_pilot_lies_among_the_runs_and_has_their_cost(spin_glass):
    model, _ = spin_glass
    said = advise(model, density=1.0, at={"temperature": 1.0}, confidence=0.99, batch=2)
    assert len(said.next_batch) == 2
    for pilot in said.next_batch:
        assert 0.5 <= pilot.settings["temperature"] <= 2.2 + 1e-9
        assert 0.5 <= pilot.load <= 2.2 + 1e-9
        assert pilot.cost == pytest.approx(4.0)
        assert pilot.cost_unit == "seconds"
        assert pilot.information > 0
    assert said.next in (None, said.next_batch[0])  # None: it promises too little for the decision
    assert said.along.shape == (len(said.levels), 3)
    np.testing.assert_allclose(said.along.sum(1), 1, atol=1e-9)


def test_a_fit_that_did_not_converge_gives_no_direction(spin_glass):
    from dataclasses import replace

    from probcomp.regime.sampler import Convergence

    model = replace(spin_glass[0], convergence=Convergence(1.4, 9, 0, 1600))
    said = advise(model, density=2.0, at={"temperature": 2.2})
    assert said.action == "undecided"
    assert said.convergence.startswith("not converged")


def test_a_load_between_those_of_the_runs_is_noted(spin_glass):
    model = spin_glass[0]
    *others, note = advise(model, density=2.0).notes
    assert note.startswith("no run has load 2: ")
    loads = np.unique(model.table.load)
    assert f"the nearest have {loads[-2]:g} and {loads[-1]:g}." in note
    assert advise(model, density=float(loads[1])).notes == tuple(others) == model.table.notes


def test_json_holds_plain_values(spin_glass):
    said = advise(spin_glass[0], density=1.0, levels=[0.6, 1.0, 2.0])
    read = json.loads(json.dumps(said.to_json(), allow_nan=False))
    assert len(read["levels"]) == 4  # the present setting joins them
    assert read["action"] == said.action


def test_without_times_a_pilot_costs_one_run(spin_glass):
    from dataclasses import replace

    model = spin_glass[0]
    table = replace(model.table, cost=np.full(len(model.table), np.nan))
    (pilot,) = advise(replace(model, table=table), density=1.0).to_json()["next_batch"]
    assert (pilot["cost"], pilot["cost_unit"]) == (1.0, "runs")


def test_a_density_outside_may_have_been_a_sparsity_or_per_cent(spin_glass):
    from dataclasses import replace

    model = spin_glass[0]
    sparse = replace(model.table, load=model.table.load / 10, load_name="density")
    for asked, words in (
        (0.9, "A sparsity of 0.9 is density 0.1"),
        (7, "7 per cent is density 0.07"),
    ):
        with pytest.raises(InputError, match=words):
            advise(sparse, density=asked)
    with pytest.raises(InputError, match=r"ask within\.$"):
        advise(sparse, density=0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"density": 9.0}, "outside the runs"),
        ({"density": 1.0, "at": {"temperature": 9.0}}, "outside the runs"),
        ({"density": 1.0, "at": {"lr": 1.0}}, "unknown knob"),
        ({"density": 1.0, "knob": "lr"}, "no knob"),
        ({"density": 1.0, "levels": [1.0]}, "at least two"),
        ({"density": 1.0, "confidence": 1.5}, "confidence"),
        ({"density": 1.0, "gain": 3.0}, "gain"),
        ({"density": 1.0, "batch": 0}, "at least one pilot"),
        ({"density": 1.0, "candidates": [(1.0, 1.0)], "costs": [1.0, 2.0]}, "2 costs for 1 cand"),
        ({"density": 1.0, "costs": [1.0]}, "1 costs for 0 candidates"),
        ({"density": 1.0, "load": "load", "draws": 50}, "leave load, draws out"),
    ],
)
def test_bad_requests_are_refused(spin_glass, options, words):
    with pytest.raises(InputError, match=words):
        advise(spin_glass[0], **options)


def test_whole_knobs_and_loads_stay_whole(spin_glass):
    """Nobody trains a width of 2.75 with batches of 430.5; advice and next pilots are of runs."""
    from dataclasses import replace

    from probcomp.regime.coordinates import Coordinates
    from probcomp.regime.knobs import Knob

    model = spin_glass[0]
    ranks = [np.unique(v, return_inverse=True)[1] for v in (model.table.settings, model.table.load)]
    batches = np.array([1024.0, 512, 256, 48, 16])[ranks[0]].reshape(-1, 1)
    widths = np.array([2.0, 3, 7, 16, 64])[ranks[1]]
    knob = Knob("bs", "down", physical=False)
    table = replace(
        model.table, knobs=(knob,), settings=batches, load=widths, load_name="width", cost=widths
    )
    other = replace(model, table=table, coordinates=Coordinates.of(table))
    said = advise(other, density=5.0, at={"bs": 1024.0}, batch=6)
    assert said.levels.tolist() == [16, 32, 48, 64, 128, 256, 512, 1024]
    assert said.best in said.levels
    for pilot in said.next_batch:
        assert pilot.settings["bs"] in said.levels
        assert pilot.load in (2, 3, 5, 7, 16, 64)


def pure_noise(noise, epochs, densities, seed):
    """Runs whose errors differ by chance alone, each setting once."""
    generator = np.random.default_rng(seed)
    at, density = (v.ravel() for v in np.meshgrid(epochs, densities))
    many = len(at)
    return {
        "epochs": at,
        "density": density,
        "test_error": 0.1 * np.exp(noise * generator.normal(size=many)),
        "lmc": -0.1 * np.exp(0.5 * generator.normal(size=many)),
        "cka": 1 - 0.05 * np.exp(0.3 * generator.normal(size=many)),
    }


def told_the_noise(runs, noise, levels=25, draws=4000):
    """P(raise) at the coldest setting of each density by one who is told how noisy runs are.

    A quadratic surface of the log error, with normal priors of spread 0.1 on its coefficients.
    """
    scaled = [
        3 * (v - v.min()) / np.ptp(v) - 1.5
        for v in (np.log(runs["density"]), -np.sqrt(runs["epochs"]))
    ]

    def terms(x, t):
        return np.column_stack([np.ones_like(t), x + 0 * t, t, x * t, t**2, x**2 + 0 * t])

    y, known = np.log(runs["test_error"]), terms(*scaled)
    precision = known.T @ known / noise**2 + np.diag([1e-4, *[100.0] * 5])
    mean = np.linalg.solve(precision, known.T @ (y - y.mean()) / noise**2)
    root = np.linalg.inv(np.linalg.cholesky(precision))
    drawn = mean + np.random.default_rng(0).normal(size=(draws, 6)) @ root
    out = []
    for x in np.unique(scaled[0]):
        errors = np.exp(y.mean() + drawn @ terms(x, np.linspace(-1.5, 1.5, levels)).T)
        out.append(np.mean(errors[:, 0] - errors[:, 1:].min(1) >= 0.003))
    return np.array(out)


NOISE = [
    (0.03, (10, 40, 160), (0.05, 0.2, 0.8), 6),
    (0.1, (10, 40, 160), (0.05, 0.2, 0.8), 1),
    (0.3, (10, 40, 160), (0.05, 0.2, 0.8), 2),
    (0.1, (10, 25, 63, 160), (0.05, 0.13, 0.32, 0.8), 3),
    (0.3, (10, 40, 160), (0.05, 0.2, 0.8), 4),
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pure_noise_without_repeats_makes_nobody_surer_than_it_may():
    """Noise of 0.3 to 3 points: as sure as one who is told the noise, within a tenth on average."""
    ours, told = [], []
    for noise, epochs, densities, seed in NOISE:
        runs = pure_noise(noise, epochs, densities, seed)
        model = RegimeModel.fit(runs, warmup=250, samples=250)
        said = [advise(model, density=density).probability["raise"] for density in densities]
        ours += said
        told += told_the_noise(runs, noise).tolist()
    ours, told = np.array(ours), np.array(told)
    sure = [np.maximum(p, 1 - p).mean() for p in (ours, told)]
    assert sure[0] < sure[1] + 0.1
    assert np.abs(ours - told).mean() < 0.15
