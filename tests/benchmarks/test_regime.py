"""The regime benchmark: regret that noise does not bias, and tables that grow by seeds."""

import importlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """Import a part of the benchmark, as the script itself does."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    # names that others may use
    for name in [n for n in sys.modules if n.startswith(("_regime_", "regime_")) or n == "regime"]:
        sys.modules.pop(name)


def test_regret_by_hand(module):
    regret = module("_regime_regret")
    errors = np.array([[0.10, 0.20, 0.30], [0.30, 0.10, 0.00], [0.20, 0.20, 0.20]])
    assert regret.plain(errors, 0) == pytest.approx(0.2 - 0.4 / 3)
    # Without the first replicate level 1 is best, without the second too, without the third level
    # 0: differences on the one left out of -.2, .1 and 0.
    assert regret.crossed(errors, 0) == pytest.approx(-0.1 / 3)


def test_the_posterior_is_right_on_average_where_plain_is_too_high(module):
    """Grids as the prior draws them, in standard errors of a mean; an adviser who knows nothing.

    His regret is averaged over the levels he may draw, which leaves less noise than one of them.
    """
    regret = module("_regime_regret")
    generator = np.random.default_rng(0)
    replicates, rows = 16, []
    for seed in range(300):
        u = generator.random()
        mu = u / (1 - u) * generator.normal(size=7) if u < 0.9 else 9 * generator.normal(size=7)
        errors = mu[:, None] + np.sqrt(replicates) * generator.normal(size=(7, replicates))
        drawn = regret.posterior(errors, seed, draws=400)
        regrets = (
            np.mean([regret.plain(errors, k) for k in range(7)]),
            np.mean([regret.crossed(errors, k) for k in range(7)]),
            np.mean(drawn.mean(1) - drawn.min(1)),
        )
        rows.append([value - (mu.mean() - mu.min()) for value in regrets])
    rows = np.array(rows)
    (plain, crossed, found), error = rows.mean(0), rows.std(0) / np.sqrt(len(rows))
    assert abs(found) < 3 * error[2] < 0.15
    assert plain > 0.4
    assert crossed < -2 * error[1]


def test_the_posterior_follows_a_grid_that_is_well_measured(module):
    regret = module("_regime_regret")
    truth = np.array([3.0, 1.0, 2.0])
    errors = truth[:, None] + 1e-3 * np.random.default_rng(0).normal(size=(3, 50))
    drawn = regret.posterior(errors)
    np.testing.assert_allclose(drawn.mean(0), truth, atol=1e-3)
    assert regret.noise_floor(errors, drawn) == pytest.approx(0, abs=1e-3)


def test_the_floor_is_what_the_best_level_pays_under_plain_counting(module):
    regret = module("_regime_regret")
    replicates = 25
    drawn = np.random.default_rng(0).normal(size=(replicates, 7))
    white = np.linalg.qr(drawn - drawn.mean(0))[0].T  # rows of mean zero and of length one
    errors = np.sqrt(replicates * (replicates - 1)) * white
    np.testing.assert_allclose(np.cov(errors) / replicates, np.eye(7), atol=1e-9)
    same = np.zeros((20_000, 7))  # no level is better
    # The expected largest of seven standard normals is 1.352.
    assert regret.noise_floor(errors, same) == pytest.approx(1.352, abs=0.04)


def test_a_summary_counts_designs_and_loads(module):
    regret = module("_regime_regret")
    generator = np.random.default_rng(0)
    truth = np.array([[0.10, 0.12], [0.20, 0.20]])
    reference = regret.Reference(truth[..., None] + 1e-4 * generator.normal(size=(2, 2, 30)))
    found = reference.summary([(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)])
    assert found["regret_points"] == pytest.approx(0.5, abs=0.01)
    assert found["regret_90"][0] <= found["regret_points"] <= found["regret_90"][1]
    # One design pays nothing, the other one point in the mean.
    assert found["standard_error_over_designs"] == pytest.approx(0.5, abs=0.01)
    assert reference.best(0)[0] == 1
    assert found["least_points"] <= found["regret_points"]


def test_loads_may_have_different_numbers_of_replicates(module):
    regret = module("_regime_regret")
    generator = np.random.default_rng(0)
    few = np.array([0.10, 0.11])[:, None] + 0.02 * generator.normal(size=(2, 8))
    many = np.array([0.10, 0.11])[:, None] + 0.02 * generator.normal(size=(2, 4000))
    found = regret.Reference([few, many])
    assert found.mu[1].std(0).max() < found.mu[0].std(0).min() / 3
    assert found.summary([(0, 1, 1)])["regret_points"] == pytest.approx(1.0, abs=0.1)
    # Of the load that is known well nobody who is right is charged.
    assert found.least(1) < 1e-6 < found.least(0)


@pytest.fixture(scope="module")
def sweep_of_digits():
    """Rows of a made-up sweep: errors rise with the distance from 20 epochs, and by seeds."""
    from probcomp.regime.tasks import load_task

    task, rows = load_task("digits"), {}
    for level in task.levels:
        for density in task.densities:
            for seed in range(8):
                error = 0.05 + 0.001 * abs(level - 20) + 0.0001 * seed
                rows[level, density, seed] = {
                    "density_realised": density, "test_error": error, "train_error": 0.0,
                    "pruned_test_error": 0.5, "wall_s": 6.0, "lmc": -0.1, "cka": 0.9,
                    "agreement": 0.9, "dense_test_error": 0.05,
                }  # fmt: skip
    return task, rows


def test_advice_is_counted_at_the_densities_that_were_asked(module, sweep_of_digits):
    """A stand-in for the model expects least at 20 epochs; the reference has it at 12."""
    from types import SimpleNamespace

    from probcomp.regime.table import read_runs

    digits, kept = module("_regime_digits"), module("_regime_reference")
    task, rows = sweep_of_digits
    levels, loads = np.array(task.levels), np.array(task.densities)
    generator = np.random.default_rng(0)
    seen = 0.05 + 0.001 * abs(levels - 12)[:, None] + 1e-5 * generator.normal(size=(7, 9))
    grid = kept.Replicates(loads, levels, 6 * (np.arange(9),), 6 * (seen,))

    class Model:
        convergence = "converged"

        def predict(self, settings, load):
            error = np.tile(0.05 + 0.001 * abs(settings[:, 0] - 20), (50, 1))
            return SimpleNamespace(error=error * np.linspace(0.9, 1.1, 50)[:, None])

    class Fits:
        def fit(self, pilots, name, design):
            names.append(name)
            return Model(), 1.0

    names = []
    judged = digits.Judged(grid, module("_regime_regret").Reference(grid.errors), Fits())
    some = [key for key in rows if key[1] in (0.04, 0.4) and key[2] == 0]
    columns = {
        "epochs": [v for v, *_ in some], "density": [d for _, d, _ in some],
        "test_error": [rows[key]["test_error"] for key in some],
        "lmc": [-0.1] * len(some), "cka": [0.9] * len(some),
    }  # fmt: skip
    pilots = read_runs(columns)
    judged.fit("nine", 0, pilots)
    judged.fit("campaign", 3, pilots, 0.08)
    assert names == ["nine0", "campaign3_0.08"]
    assert len(judged.chosen["nine"]) == 6
    assert judged.chosen["campaign"] == [(3, 2, 3)]
    assert judged.summary("campaign")["regret_points"] == pytest.approx(0.8, abs=0.01)
    assert judged.summary("nine", 5)["regret_points"] == pytest.approx(0.8, abs=0.01)
    assert judged.rows[1]["best_epochs"] == [(0.08, 20.0)]


def test_each_campaign_begins_with_seeds_of_its_own(module):
    orders = module("_regime_digits").orders([4, 5, 6, 7, 8])
    assert orders == [[4, 5, 6, 7, 8], [6, 7, 8, 4, 5]]


def test_a_campaign_is_told_the_rows_of_the_seeds_that_stand_for_its_own(module, sweep_of_digits):
    found = module("_regime_campaign")
    sweep = found.Sweep(*sweep_of_digits)
    rounds = found.campaign(sweep, "digits", 0.08, [6, 3, 5, 4], pilots=5)
    runs = [run for some in rounds for run in some]
    assert [len(some) for some in rounds] == [10, 4, 4, 2]
    assert len(runs) == len(set(runs)) == 20
    assert [run for run in runs if run[2] not in (6, 3, 5, 4)] == []
    assert [seed for level, load, seed in runs if (level, load) == (60, 0.08)][:2] == [6, 3]
    # The first: 10 pilots of 6 s; 60 epochs of both dense runs at 6 s for 60 epochs.
    assert sweep.seconds(rounds[:1]) == pytest.approx(10 * 6 + (60 + 60) * 0.1)
    # Later 30 epochs go on from the stop at 20, in a round of their own.
    later = [*rounds[:1], [(30.0, 0.08, 6)], [(30.0, 0.2, 6)]]
    assert sweep.seconds(later) == pytest.approx(12 * 6 + (60 + 60 + 10) * 0.1)


def test_the_process_that_plans_advises_near_the_best_level_of_quiet_runs(module, sweep_of_digits):
    found = module("_regime_campaign")
    sweep, levels = found.Sweep(*sweep_of_digits), np.array(sweep_of_digits[0].levels)
    runs = [key for key in sweep.rows if key[1] in (0.055, 0.08, 0.4) and key[2] < 2]
    assert levels[found.by_process(sweep, levels, 0.08, runs)] == 20


def test_advisers_with_as_many_runs_know_what_they_should(module, sweep_of_digits):
    found = module("_regime_campaign")
    sweep = found.Sweep(*sweep_of_digits)
    levels, loads = np.array(sweep.task.levels), np.array(sweep.task.densities)
    runs = found.nearest(levels, loads, 0.4, [6, 3])
    assert len(runs) == len(set(runs)) == 18
    assert sorted({load for _, load, _ in runs}) == [0.2, 0.4]
    assert len({level for level, load, _ in runs if load == 0.4}) == 7
    assert levels[found.least_measured(sweep, levels, 0.08, [6, 3, 5], 18)] == 20
    loud = dict(sweep.rows)
    loud[20.0, 0.08, 5] = {**loud[20.0, 0.08, 5], "test_error": 9.0}
    sweep = found.Sweep(sweep.task, loud)
    assert levels[found.least_measured(sweep, levels, 0.08, [6, 3, 5], 14)] == 20  # two seeds each
    assert levels[found.least_measured(sweep, levels, 0.08, [6, 3, 5], 21)] != 20


@pytest.fixture
def network():
    import torch
    from torch import nn

    def build():
        return nn.Sequential(
            nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(),
            nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3),
        ).double()  # fmt: skip

    torch.manual_seed(0)
    return build


def test_networks_retrained_side_by_side_take_the_steps_they_take_alone(module, network):
    import copy

    import torch

    from probcomp.regime.pruning import magnitude_masks, prunable_weights
    from probcomp.regime.recipe import Recipe
    from probcomp.regime.training import train

    many = module("_regime_many")
    x, y = torch.randn(40, 5).double(), torch.randint(0, 3, (40,))
    recipe = Recipe(epochs=3, horizon=3, lr=0.2, batch_size=8)
    networks = [network() for _ in range(3)]
    masks = [magnitude_masks(prunable_weights(n), 0.5, "uniform") for n in networks]
    alone = copy.deepcopy(networks)
    for one, mask in zip(alone, masks):
        train(one, (x, y), recipe, seed=7, masks=mask, augment=noisy)
    stack = many.Stack(networks)
    named = {f"layers.{n}": torch.stack([m[n] for m in masks]) for n in masks[0]}
    targets = y[:, None].expand(-1, 3)
    train(stack, (x, targets), recipe, seed=7, masks=named, augment=noisy)
    with torch.no_grad():
        found, expected = stack(x), torch.stack([one(x) for one in alone], -1)
    assert (found - expected).abs().max() < 1e-9
    assert (found - torch.stack([n(x) for n in networks], -1)).abs().max() > 0.1  # they did train


def noisy(x):
    import torch

    return x + 0.1 * torch.randn_like(x)


@pytest.fixture
def reference(module, monkeypatch):
    """The module, with errors that tell what was asked; and what was asked."""
    found, asked = module("_regime_reference"), []
    known = np.array([0.04, 0.055, 0.08, 0.12, 0.2, 0.4])

    def cells(task, seed, retrain, densities):
        asked.append((seed, retrain, tuple(densities)))
        rows = known.searchsorted(densities)
        return seed + np.arange(42.0).reshape(6, 7)[rows] / 100

    monkeypatch.setattr(found, "grid_errors", cells)
    return found, asked


def test_a_reference_goes_on_where_it_was_and_is_read_by_cell(reference, tmp_path):
    reference, asked = reference
    path = tmp_path / "reference.csv"
    reference.reference([100, 101], path=path)
    said = reference.reference([100, 101, 102], path=path)
    assert [one[:2] for one in asked] == [(100, (200, 201)), (101, (202, 203)), (102, (204, 205))]
    assert said["dense_seeds"]["0.04"] == 3
    found = reference.read_reference(path)
    assert (found.seeds[0].tolist(), found.loads[0], found.levels[-1]) == (
        [100, 101, 102],
        0.04,
        60,
    )
    assert [errors.shape for errors in found.errors] == 6 * [(7, 3)]
    assert found.errors[1][2, 1] == pytest.approx(101.09, abs=1e-3)


def test_a_density_may_have_more_seeds_than_others(reference, tmp_path):
    reference, asked = reference
    path = tmp_path / "reference.csv"
    reference.reference([100], path=path)
    asked.clear()
    said = reference.reference([100, 101], [0.04, 0.2], path=path)
    reference.reference([101], path=path)
    assert asked == [
        (101, (202, 203), (0.04, 0.2)),
        (101, (202, 203), (0.055, 0.08, 0.12, 0.4)),
    ]
    assert said["new"] == 1
    assert (said["dense_seeds"]["0.04"], said["dense_seeds"]["0.4"]) == (2, 1)
    reference.reference([107], [0.04], path=path)
    found = reference.read_reference(path)
    assert [len(seeds) for seeds in found.seeds] == [3, 2, 2, 2, 2, 2]
    assert found.errors[0][3, 2] == pytest.approx(107.03, abs=1e-3)


def test_a_seed_that_was_killed_while_it_was_written_is_run_again(reference, tmp_path):
    """What was whole of it is kept: a density has all its levels, or is run again."""
    reference, asked = reference
    path = tmp_path / "reference.csv"
    reference.reference([100, 101], path=path)
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    for left in (-1, -3, -30, -400):  # an end of line, part of a number, a line, many
        path.write_text(whole[:left])
        asked.clear()
        said = reference.reference([100, 101], path=path)
        ((seed, _, densities),) = asked
        assert (seed, said["new"]) == (101, 1)
        assert len(densities) == (1 if left > -100 else 4)
        assert path.read_text() == whole
    path.write_text("".join(lines[:5] + lines[6:]))  # a line of the first seed is lost
    assert reference.reference([100, 101], path=path)["new"] == 1
    assert sorted(path.read_text().splitlines()) == sorted(whole.splitlines())


def test_saved_fits_are_read_again_only_for_the_table_they_were_made_of(
    module, tmp_path, monkeypatch
):
    from probcomp.regime.sampler import Convergence
    from probcomp.regime.table import read_runs
    from probcomp.regime.toys import sk_table

    kept = module("_regime_fits")
    made = []

    class Model:
        draws = np.zeros((4, 3))
        convergence = Convergence(1.0, 300.0, 0, 4)

        def __init__(self, table, *rest):
            self.table = table

        def with_processes(self):
            return self

        @classmethod
        def fit(cls, table, seed):
            made.append(seed)
            return cls(table)

    monkeypatch.setattr(kept, "RegimeModel", Model)
    values = np.geomspace(0.5, 2.2, 4)
    table = read_runs(sk_table(values, values)[0])
    fits = kept.Fits(tmp_path)
    for _ in range(2):
        fits.fit(table, "one")
    assert made == [0]
    other = replace(table, error=table.error + 1e-9 * (np.arange(len(table)) == 3))
    fits.fit(other, "one")
    fits.fit(other, "one")
    assert made == [0, 0]
    fits.fit(other, "one", 5)
    monkeypatch.setattr(kept.sampler, "ROUNDS", 2)
    fits.fit(other, "one", 5)
    assert made == [0, 0, 5, 5]
    monkeypatch.setitem(kept.PRIOR, "noise", (3, -1.0, 0.9, True))
    fits.fit(other, "one", 5)
    monkeypatch.setattr(kept, "BEND", 3.0)
    for _ in range(2):
        fits.fit(other, "one", 5)
    assert made == [0, 0, 5, 5, 5, 5]
    path = tmp_path / "one.npz"
    np.savez(path, **{k: v for k, v in np.load(path).items() if k != "of"})  # of an older run
    fits.fit(other, "one", 5)
    assert len(made) == 7


def test_the_length_of_chains_is_part_of_what_a_fit_is_made_from(module, monkeypatch):
    from probcomp.regime.table import read_runs
    from probcomp.regime.toys import sk_table

    kept, keys = module("_regime_fits"), set()
    table = read_runs(sk_table([0.5, 1.0, 2.0], [0.5, 1.0, 2.0])[0])
    for fit in (lambda table, samples=700: None, lambda table, samples=350: None):
        monkeypatch.setattr(kept.RegimeModel, "fit", fit)
        keys |= {kept.checksum(table, 0), kept.checksum(table, 0)}
    assert len(keys) == 2


def test_a_sweep_adds_its_seeds_to_the_table_and_replaces_those_run_again(
    module, tmp_path, monkeypatch
):
    regime = module("_regime_digits")
    monkeypatch.setattr(regime, "DIGITS", tmp_path / "runs.csv")
    error = {"value": 0.1}

    def configs(task):
        return [Config(density=d) for d in (0.2, 0.1)]

    def records(chosen, store, *, jobs):
        run = {
            "density_realised": 0.1, "test_error": error["value"], "train_error": 0.0,
            "pruned_test_error": 0.5, "wall_s": 2.0,
        }  # fmt: skip
        pair = {"lmc": -0.1, "cka_softmax": 0.9, "agreement": 0.9, "wall_s": 1.0}
        return [
            {
                "status": "done", "runs": [run], "pairs": [pair], "dense": {"test_error": 0.1},
                "config": {
                    "recipe": {"epochs": 3.0}, "dense_seed": c.dense_seed, "density": c.density,
                },
            }
            for c in chosen
        ]  # fmt: skip

    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Config:
        density: float
        dense_seed: int = 0

    monkeypatch.setattr(regime, "grid_configs", configs)
    monkeypatch.setattr(regime, "run_pilots", records)
    assert regime.sweep(tmp_path, 1, [1])["rows_of_the_table"] == 2
    error["value"] = 0.2
    said = regime.sweep(tmp_path, 1, [0, 1])
    assert said["rows_of_the_table"] == 4
    lines = (tmp_path / "runs.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","))) for line in lines[1:]]
    order = [(row["dense_seed"], row["density"]) for row in rows]
    assert order == [("0", "0.1"), ("0", "0.2"), ("1", "0.1"), ("1", "0.2")]
    assert {row["test_error"] for row in rows} == {"0.2"}


def test_costs_that_are_not_measured_anew_are_kept(module, tmp_path, monkeypatch):
    cost = module("regime_cost")
    out = tmp_path / "cost.json"
    out.write_text('{"result": {"9 pilots": {"wall_seconds": 1.0}, "144 cells": {}}}')
    monkeypatch.setattr(cost, "nine_runs", lambda: {"wall_seconds": 2.0})
    monkeypatch.setattr(sys, "argv", ["regime_cost.py", "--only", "runs", "--out", str(out)])
    cost.main()
    found = json.loads(out.read_text())["result"]
    assert found == {"9 pilots": {"wall_seconds": 2.0}, "144 cells": {}}


def test_the_expected_errors_of_who_is_told_are_those_of_a_normal_law(module):
    """Against draws of the law, kept where they agree with what was seen."""
    told = module("_regime_told")
    cover = np.array([[0.3, 0.2], [0.2, 0.4]])
    surface = told.Surface(-2.0, cover)
    found = surface.expected(np.array([0]), np.array([-1.5]), np.array([0.1]))
    generator = np.random.default_rng(0)
    drawn = -2.0 + generator.multivariate_normal(np.zeros(2), cover, size=2_000_000)
    seen = drawn[:, 0] + np.sqrt(0.1) * generator.normal(size=len(drawn))
    near = abs(seen + 1.5) < 0.01
    np.testing.assert_allclose(found, np.exp(drawn[near]).mean(0), rtol=0.02)


@pytest.fixture(scope="module")
def noisy_grid():
    """Three loads, four levels, forty seeds; the best level moves with the load."""
    generator = np.random.default_rng(1)
    loads, levels = np.array([0.1, 0.2, 0.4]), np.array([4.0, 9, 25, 49])
    best = np.array([0, 1, 3])[:, None]
    truth = 0.1 * np.exp(0.3 * abs(np.arange(4) - best)) / (1 + np.arange(3))[:, None]
    noise = np.exp(0.5 * generator.normal(size=(3, 4, 40)))
    return loads, levels, truth[..., None], noise


def test_who_is_told_regrets_nothing_where_all_is_seen_and_less_with_seeds(module, noisy_grid):
    told, regret = module("_regime_told"), module("_regime_regret")
    loads, levels, truth, noise = noisy_grid

    def least(errors, cells, seeds):
        surface = told.Surface.fit(errors, loads, levels)
        reference = regret.Reference(list(errors))
        return told.told_regret(reference, surface, lambda _: cells, seeds, draws=300)

    quiet = truth * noise**0.01
    assert least(quiet, range(12), 1)["regret_points"] < 1e-3
    loud = truth * noise
    one, many = (least(loud, range(12), seeds) for seeds in (1, 20))
    assert many["regret_points"] + 3 * many["error"] < one["regret_points"] - 3 * one["error"]
    # Five cells of one seed tell less still.
    few = least(loud, [0, 3, 6, 8, 11], 1)
    assert few["regret_points"] > one["regret_points"]


def test_who_is_told_advises_only_within_his_pilots(module, noisy_grid):
    """Two levels at one load: the advice is one of those two and those between, at that load."""
    told, regret = module("_regime_told"), module("_regime_regret")
    loads, levels, truth, noise = noisy_grid
    quiet = truth * noise**0.01
    surface = told.Surface.fit(quiet, loads, levels)
    reference = regret.Reference(quiet)
    found = told.told_regret(reference, surface, lambda _: [2, 3], 1, draws=50)
    # Best at this load is level 0; the nearest that may be said is 2.
    expected = 100 * float(truth[0, 2, 0] - truth[0, 0, 0])
    assert found["regret_points"] == pytest.approx(expected, rel=0.02)


TINY = """
import torch
from torch import nn
from probcomp.regime.recipe import Recipe
from probcomp.regime.tasks import PilotTask

def build():
    return nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(),
        nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3),
    ).double()

def task():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 5, generator=generator).double()
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    recipe = Recipe(epochs=2, horizon=2, lr=0.2, batch_size=8)
    return PilotTask(
        "tiny", build, (x[:60], y[:60]), (x[60:], y[60:]), recipe, recipe, KNOB, LEVELS,
        (0.2, 0.5), augment=lambda x: x + 0.1 * torch.randn_like(x),
    )
"""


@pytest.mark.parametrize(("knob", "levels"), [("batch_size", (4, 16)), ("epochs", (1, 2))])
def test_pilots_side_by_side_give_what_they_give_alone(module, tmp_path, knob, levels):
    from probcomp.regime.pilots import run_pilot
    from probcomp.regime.records import pilot_rows
    from probcomp.regime.sweep import grid_configs

    many, path = module("_regime_many"), tmp_path / "tiny.py"
    path.write_text(TINY.replace("KNOB", repr(knob)).replace("LEVELS", repr(levels)))
    found = many.grid_pilots(str(path), 1)
    alone = [run_pilot(c) for c in grid_configs(str(path)) if c.dense_seed == 1]
    assert [record["key"] for record in found] == [record["key"] for record in alone]
    rows, expected = (pilot_rows(records, knob) for records in (found, alone))
    assert len({row["test_error"] for row in rows}) > 2
    barriers = [[record["pairs"][0]["lmc"] for record in records] for records in (found, alone)]
    assert barriers[0] == pytest.approx(barriers[1], abs=1e-6)
    assert max(map(abs, barriers[0])) > 0.01
    for one, other in zip(rows, expected):
        assert one.pop("wall_s") > 0
        other.pop("wall_s")
        assert one == pytest.approx(other, abs=1e-6)


@pytest.fixture
def fashion(module, tmp_path, monkeypatch):
    """The second task as a tiny one, its tables made up: best at 8, and at 4 where most is kept."""
    import csv

    from probcomp.regime.records import COLUMNS

    found, path = module("_regime_fashion"), tmp_path / "tiny.py"
    levels, densities = (4, 8, 16), (0.1, 0.2, 0.5)
    text = TINY.replace("KNOB", "'batch_size'").replace("LEVELS", repr(levels))
    path.write_text(text.replace("(0.2, 0.5)", repr(densities)))
    monkeypatch.setattr(found, "FASHION", str(path))
    monkeypatch.setattr(found, "RUNS", tmp_path / "runs.csv")
    monkeypatch.setattr(found, "REFERENCE", tmp_path / "reference.csv")
    monkeypatch.setenv("PROBCOMP_DATA", str(tmp_path))
    generator = np.random.default_rng(0)

    def rows(seeds):
        for seed in seeds:
            for density in densities:
                for level in levels:
                    away = abs(np.log2(level / (4 if density == 0.5 else 8)))
                    error = 0.1 + 0.02 * away + 1e-4 * generator.normal()
                    yield seed, density, level, error

    def write(path, names, values):
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerows([names, *values])

    shared = ("dense_seed", "density", "batch_size", "test_error")
    rest = {
        "density_realised": 0.1, "train_error": 0.0, "pruned_test_error": 0.5, "wall_s": 2.0,
        "lmc": -0.1, "cka": 0.9, "agreement": 0.9, "dense_test_error": 0.1,
    }  # fmt: skip
    order, table = ("batch_size", *COLUMNS), []
    for row in rows(range(4)):
        values = {**dict(zip(shared, row)), **rest}
        table.append([values[name] for name in order])
    write(found.RUNS, order, table)
    write(found.REFERENCE, shared, rows(range(100, 109)))
    return found


class LineOfMeans:
    """In place of the fitted model: expects what it was told at each level, within a tenth."""

    convergence = type("Gates", (), {"ok": True, "__str__": lambda self: "converged"})()

    def __init__(self, table):
        self.table = table

    def predict(self, settings, load):
        from types import SimpleNamespace

        here = np.isclose(self.table.load, load[0])
        told = [
            self.table.error[here & (self.table.settings[:, 0] == v)].mean()
            if (here & (self.table.settings[:, 0] == v)).any()
            else 0.12
            for v in settings[:, 0]
        ]
        spread = 1 + 1e-3 * np.linspace(-1, 1, 41)[:, None]
        return SimpleNamespace(error=np.array(told) * spread)


def test_a_second_task_is_judged_from_its_tables(fashion, monkeypatch):
    monkeypatch.setattr(fashion, "TWICE", 6)  # no longer than needed to be there

    class Fits:
        def fit(self, pilots, name, design):
            names.append(name)
            return LineOfMeans(pilots), 1.0

    names = []
    said = fashion.fashion(2, Fits())
    assert names == [f"fashion{d}_{load:g}" for d in (0, 1) for load in (0.1, 0.2, 0.5)]
    assert said["replicates_of_the_reference"] == {"0.1": 9, "0.2": 9, "0.5": 9}
    assert said["runs_of_a_campaign"] == [18]
    assert {run[2] for row in said["each"] for run in row["plan"]} <= {0, 1, 2, 3}
    assert said["regret"]["at_density"]["regret_points"] == pytest.approx(0, abs=0.02)
    # The recipe's 8 is right but where most is kept; the coldest is 1 and 2 doublings off.
    assert said["regret"]["as_it_is"]["regret_points"] == pytest.approx(2 / 3, abs=0.02)
    assert said["regret"]["coldest"]["regret_points"] == pytest.approx((2 + 2 + 4) / 3, abs=0.02)
    assert said["regret"]["random"]["regret_points"] == pytest.approx((4 + 4 + 6) / 9, abs=0.02)
    assert said["decisions"]["of_the_coldest"]["decisions"] == 6
    assert said["decisions"]["of_all_levels"]["decisions"] == 18
    assert said["surface"]["0.5"]["probability_of_being_best"]["4"] == 1
    json.dumps(said)  # what the record holds are plain values


def test_decisions_are_counted_against_what_the_reference_gives(fashion, module):
    from probcomp.regime.knobs import KNOWN

    generator = np.random.default_rng(0)
    truth = np.array([0.10, 0.12, 0.14])  # of batch sizes, the smallest of which is the hottest
    errors = truth[:, None] + 1e-4 * generator.normal(size=(3, 20))
    reference = module("_regime_regret").Reference([errors])
    knob, levels = KNOWN["batch_size"], np.array([4.0, 8, 16])
    surely = {"raise": [0.9, 0.05, 0.05], "lower": [0.1, 0.85, 0.05], "keep": [0.0, 0.1, 0.9]}

    def met(*said, converged=True):
        about = {"load": 0, "converged": converged}
        rows = [{**about, "at": at, "probability": np.array(p)} for at, p in said]
        return fashion.decisions_met(rows, reference, levels, knob)

    assert fashion.coldest(levels, knob) == 2
    found = met((2, surely["raise"]), (1, surely["lower"]), (0, surely["raise"]))
    assert (found["sure"], found["keep_is_right"]) == (1, pytest.approx(1 / 3))
    assert (found["right"], found["wrong"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found["brier"] == pytest.approx(
        np.mean([0.1**2 + 2 * 0.05**2, 0.9**2 + 0.85**2 + 0.05**2, 0.9**2 + 0.05**2 + 0.95**2])
    )
    unsure = met((2, [0.2, 0.5, 0.3]), (0, surely["keep"]))
    assert (unsure["sure"], unsure["right"], unsure["wrong"]) == (0.5, 1, 0)
    assert (unsure["right_of_all"], unsure["wrong_of_all"]) == (0.5, 0.5)
    failed = met((2, surely["raise"]), converged=False)
    assert (failed["sure"], failed["right_of_all"], "right" in failed) == (0, 1, False)


def test_the_second_task_refuses_what_it_cannot_judge(fashion, monkeypatch):
    from probcomp.errors import InputError

    text = fashion.REFERENCE.read_text()
    fashion.REFERENCE.write_text(text + text.splitlines()[1].replace("100,", "3,", 1) + "\n")
    with pytest.raises(InputError, match="lacks cells"):
        fashion.fashion(1, None)
    fashion.REFERENCE.write_text(text.replace("\n100,", "\n3,"))
    with pytest.raises(InputError, match=r"share dense seeds: \[3\]"):
        fashion.fashion(1, None)
    fashion.RUNS.unlink()
    with pytest.raises(InputError, match=r"runs.csv is missing; run"):
        fashion.fashion(1, None)
    with pytest.raises(InputError, match="from 100 on are the reference's"):
        fashion.fashion_sweep([100])
    fashion.RUNS.write_text(text)
    monkeypatch.delenv("PROBCOMP_DATA")
    with pytest.raises(InputError, match="set PROBCOMP_DATA"):
        fashion.fashion(1, None)


def test_the_second_task_says_which_data_it_lacks(monkeypatch, tmp_path):
    from probcomp.errors import InputError
    from probcomp.regime.tasks import load_task

    path = str(FOLDER / "fashion_task.py")
    load_task.cache_clear()
    monkeypatch.delenv("PROBCOMP_DATA", raising=False)
    with pytest.raises(InputError, match="set PROBCOMP_DATA to the directory that contains"):
        load_task(path)
    monkeypatch.setenv("PROBCOMP_DATA", str(tmp_path))
    with pytest.raises(InputError, match="train-images"):
        load_task(path)


def test_another_knob_than_epochs_trains_a_network_for_each_value(module, sweep_of_digits):
    found = module("_regime_campaign")
    task = replace(sweep_of_digits[0], knob="batch_size", levels=(16, 64))
    sweep = found.Sweep(task, {(v, 0.08, s): {"wall_s": 6.0} for v in (16.0, 64.0) for s in (0, 1)})
    # An epoch takes 6 s / (2 x 30); a dense run has 60 of them, whatever its batch size.
    once = sweep.seconds([[(16.0, 0.08, 0), (64.0, 0.08, 0)]])
    assert once == pytest.approx(2 * 6 + 2 * 6)
    again = [[(16.0, 0.08, 0)], [(16.0, 0.08, 0), (16.0, 0.08, 1)]]
    assert sweep.seconds(again) == pytest.approx(3 * 6 + 2 * 6)


def test_a_sweep_of_the_second_task_adds_the_seeds_that_the_table_lacks(fashion, monkeypatch):
    asked, made = [], fashion.grid_pilots

    def once(source, seed):
        asked.append(seed)
        return made(source, seed)

    monkeypatch.setattr(fashion, "grid_pilots", once)
    said = fashion.fashion_sweep([2, 4])
    assert asked == [4]
    assert (said["dense_seeds"], said["rows_of_the_table"]) == ([0, 1, 2, 3, 4], 45)


def test_what_the_tutorial_reads_is_in_the_record():
    """The last part of the tutorial prints figures of the record by their names."""
    text = (FOLDER.parent / "tutorials" / "07_which_regime_am_i_in.py").read_text()
    part = text[text.index('"regime_digits.json"') :]
    names = re.findall(r'^    \("(\w+)", "', part, re.MULTILINE)
    assert len(names) >= 5
    record = json.loads((FOLDER / "results" / "regime_digits.json").read_text())["result"]
    for name in names:
        assert record["designs"][name] > 0
        assert len(record["regret"][name]["regret_90"]) == 2
