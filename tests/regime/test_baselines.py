"""Baselines on data they can represent, and the rules by hand."""

import dataclasses

import numpy as np
import pytest

from probcomp.regime.baselines import (
    DiagnosisTree,
    ProcessBaseline,
    QuadraticBaseline,
    TreeBaseline,
    connectivity_rule,
    longest_training,
)
from probcomp.regime.table import read_runs


@pytest.fixture
def runs():
    batch, density = np.meshgrid([16.0, 32, 64, 128, 256], [0.05, 0.1, 0.2, 0.4, 0.8])
    u, v = np.log(batch.ravel() / 64), np.log(density.ravel() / 0.2)
    return read_runs(
        {
            "batch_size": batch.ravel(),
            "density": density.ravel(),
            "test_error": np.exp(-2 + 0.05 * u**2 - 0.1 * v + 0.03 * u * v),
            "lmc": -0.2 * ((u > 0) & (v < 0)),
            "cka": 0.95 + 0.01 * v - 0.005 * u,
        }
    )


def test_outside_the_runs_the_process_goes_on_with_their_slope(runs):
    """The sparsest runs are left out; without slopes it falls back to the mean of the others."""
    held = runs.load == 0.05
    test = runs.take(held)
    mean = ProcessBaseline.fit(runs.take(~held)).errors(test.settings, test.load, 2000).mean(0)
    np.testing.assert_allclose(mean, test.error, rtol=0.1)
    bare = dataclasses.replace(ProcessBaseline.fit(runs.take(~held)).process, slopes=0.0)
    co = ProcessBaseline.fit(runs.take(~held)).coordinates
    values = co.observables(runs.take(~held))[:, 0]
    other = ProcessBaseline(co, bare, values).errors(test.settings, test.load, 2000).mean(0)
    assert abs(mean / test.error - 1).max() < 0.7 * abs(other / test.error - 1).max()


@pytest.mark.parametrize("kind", [ProcessBaseline, QuadraticBaseline])
def test_smooth_baselines_predict_a_quadratic(runs, kind):
    held = np.arange(len(runs)) % 7 == 3
    model = kind.fit(runs.take(~held))
    test = runs.take(held)
    mean = model.errors(test.settings, test.load, 2000).mean(0)
    np.testing.assert_allclose(mean, test.error, rtol=0.04)
    wide = model.observed(test.settings, test.load, 2000).std(0)
    assert np.all(wide >= 0.9 * model.errors(test.settings, test.load, 2000).std(0))


def test_tree_repeats_the_runs_it_has_seen(runs):
    model = TreeBaseline.fit(runs)
    found = model.errors(runs.settings, runs.load, 3)
    assert found.shape == (3, 25)
    assert np.abs(found[0] / runs.error - 1).mean() < 0.05


def test_connectivity_rule_raises_where_disconnected(runs):
    said = connectivity_rule(runs)
    np.testing.assert_array_equal(said == 0, runs.connectivity < -0.1)
    assert set(said) == {0, 1, 2}


def test_longest_training_lowers_all_but_the_coldest(runs):
    said = longest_training(runs)
    np.testing.assert_array_equal(said == 2, runs.settings[:, 0] == 256)


def test_diagnosis_tree_finds_a_threshold():
    features = np.random.default_rng(0).random((200, 3))
    labels = (features[:, 1] > 0.4).astype(int)
    tree = DiagnosisTree.fit(features, labels)
    np.testing.assert_array_equal(tree.probability(features) < 0.5, labels == 1)
