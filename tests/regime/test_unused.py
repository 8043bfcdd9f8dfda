"""Columns that no model reads: which of them tell runs apart."""

import numpy as np
import pytest

from probcomp.errors import InputError
from probcomp.regime.table import read_runs


def twice(**more):
    """Nine settings, each run twice; the columns ``more`` have one value for each run of a pair."""
    epochs, density = (v.ravel() for v in np.meshgrid([20.0, 80, 160], [0.05, 0.2, 0.8]))
    second, pair = np.arange(18) // 9, np.tile(np.arange(9), 2)
    columns = {
        "epochs": epochs[pair],
        "density": density[pair],
        "test_error": 0.2 - 0.1 * density[pair] + 0.01 * second,
        "lmc": -0.01 * (1 + pair) - 0.001 * second,
        "cka": np.full(18, 0.9),
    }
    return columns | {name: [values[k] for k in second] for name, values in more.items()}


@pytest.mark.parametrize(
    ("name", "values"),
    [("width", (1, 4)), ("Params", (100000, 400000)), ("width", ("narrow", "wide"))],
)
def test_a_second_load_is_refused_and_one_of_it_can_be_chosen(name, values):
    with pytest.raises(InputError, match=f"'{name}' has 2 values .* second load beside density"):
        read_runs(twice(**{name: values}))
    assert len(read_runs(twice(**{name: values}), where={name: values[1]})) == 9


def test_a_load_that_follows_the_load_is_no_second_one():
    """Weights that were counted: nearly as many in each run of a density."""
    columns = twice()
    counted = 1e5 * columns["density"] * (1 + 0.01 * np.arange(18) % 0.03)
    assert read_runs(columns | {"params": counted}).notes == ()
    assert read_runs(columns | {"sparsity": 1 - columns["density"]}).notes == ()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("retrain_lr", (0.1, 0.5)),
        ("retrain_epochs", ("10", "40")),
        ("optimizer", ("sgd", "adam")),
        ("depth", (8, 20)),
    ],
)
def test_settings_in_which_repeats_differ_are_noted(name, values):
    (note,) = read_runs(twice(**{name: values})).notes
    assert f"differ in '{name}' and are taken for repeats" in note
    assert read_runs(twice(**{name: values}), where={name: values[0]}).notes == ()
    assert read_runs(twice(**{name: values[:1] * 2})).notes == ()


def test_a_knob_that_is_left_out_is_noted():
    columns = twice(lr=(0.1, 0.3))
    assert read_runs(columns).notes == ()
    (note,) = read_runs(columns, knobs=["epochs"]).notes
    assert "differ in 'lr'" in note


def test_seeds_labels_and_what_was_measured_are_no_settings():
    row = np.arange(18.0)
    more = {
        "seed": row // 9, "retrain_seed": row // 9, "trial": row // 9, "train_err": row // 9 / 100,
        "hessian_trace": 100 + row % 7, "wall_s": 3 + row % 5, "file": [f"{k}.pt" for k in row],
    }  # fmt: skip
    assert read_runs(twice() | more).notes == ()


def once(**more):
    """Nine settings, each run once."""
    return {name: values[:9] for name, values in twice().items()} | more


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("optimizer", ["adam", "sgd"] * 4 + ["adam"]),
        ("optimizer", ["adam"] * 3 + ["sgd"] * 6),  # with the density: not to be told apart from it
        ("nesterov", [0, 1] * 4 + [1]),
    ],
)
def test_settings_in_which_runs_without_repeats_differ_are_noted(name, values):
    assert read_runs(once()).notes == ()
    (note,) = read_runs(once(**{name: values})).notes
    assert f"runs differ in '{name}', neither knob nor load" in note
    assert read_runs(once(**{name: values[:1] * 9})).notes == ()


def test_a_knob_that_is_left_out_of_runs_without_repeats_is_noted():
    rate = [0.1, 0.3, 0.3, 0.1, 0.3, 0.1, 0.1, 0.3, 0.1]
    (note,) = read_runs(once(lr=rate), knobs=["epochs"]).notes
    assert "runs differ in 'lr'" in note
    # One that follows another is that one.
    follows = once()["epochs"] / 10
    assert read_runs(once(lr=follows), knobs=["epochs"]).notes == ()


def test_labels_of_runs_without_repeats_are_no_settings():
    epochs, density = once()["epochs"], once()["density"]
    more = {
        "seed": [0, 1] * 4 + [0], "file": [f"{k}.pt" for k in range(9)], "steps": epochs * 100,
        "kept_of_layer": 1000 * density, "hessian_trace": np.arange(9.0),
    }  # fmt: skip
    assert read_runs(once(**more)).notes == ()
