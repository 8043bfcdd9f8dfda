"""What a table must hold: each refusal, and what is let through."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from probcomp.errors import InputError
from probcomp.regime.checks import check_apart, check_directions, check_enough, check_inside
from probcomp.regime.table import read_runs


def table(**changed):
    """Nine runs in which more epochs and more weights lower the error."""
    epochs, density = (v.ravel() for v in np.meshgrid([10.0, 20, 40], [0.1, 0.2, 0.4]))
    columns = {
        "epochs": epochs,
        "density": density,
        "test_error": 0.3 - 0.3 * density - 0.001 * epochs,
        "lmc": -0.01 * epochs / density / 40,
        "cka": 0.9 + 0.1 * density,
    }
    return read_runs({**columns, **changed}, check=False)


def test_a_sound_table_passes():
    check_enough(table())
    assert check_directions(table()) == ()


def test_what_lies_outside_the_runs_is_refused_but_for_rounding():
    runs = np.array([0.05, 0.4])
    check_inside("density", [0.05, 0.1, 0.4 * (1 + 1e-12)], runs)
    for value, words in (
        (0.9, "A sparsity of 0.9 is density 0.1"),
        (10.0, "10 per cent is density 0.1"),
        (np.nan, "density nan lies outside"),
        (0.5, r"ask within\.$"),
    ):
        with pytest.raises(InputError, match=words):
            check_inside("density", [0.1, value], runs)
    with pytest.raises(InputError, match=r"ask within\.$"):
        check_inside("width", 0.9, runs)


def test_a_known_knob_whose_barriers_grow_with_heat_is_not_doubted():
    """Long training is cold: barriers of the short runs are no sign of a wrong direction."""
    (note,) = check_directions(
        table(lmc=-1.0 / table().settings[:, 0] - 1e-3 * np.arange(9) % 3e-3)
    )
    assert "epochs gets hotter" in note
    assert "direction" not in note


def test_repeated_runs_are_no_further_evidence_on_a_direction():
    rank = np.array([6.0, 1, 5, 2, 9, 4, 8, 3, 7])  # of barriers; little to do with epochs
    runs = table()
    order = np.argsort(np.argsort(runs.settings[:, 0], kind="stable"), kind="stable")
    lmc = -0.01 * (rank - 0.6 * order)
    columns = {
        "epochs": runs.settings[:, 0], "density": runs.load, "test_error": runs.error,
        "lmc": lmc - lmc.max(), "cka": runs.similarity,
    }  # fmt: skip
    once = read_runs(columns, check=False)
    often = read_runs({name: np.tile(v, 40) for name, v in columns.items()}, check=False)
    assert check_directions(once) == check_directions(often) == ()
    rho, chance = spearmanr(-often.settings[:, 0], often.connectivity)
    assert rho < 0
    assert chance < 1e-4  # by rows it would have been said


def test_one_load_and_few_settings_are_refused():
    runs = table()
    with pytest.raises(InputError, match="one density only"):
        check_enough(runs.take(runs.load == 0.1))
    with pytest.raises(InputError, match="4 distinct pilots; at least 5"):
        check_enough(runs.take([0, 1, 3, 4]))
    with pytest.raises(InputError, match="constant at 10"):
        check_enough(runs.take(runs.settings[:, 0] == 10))


def test_a_load_that_runs_backwards_and_a_barrier_without_its_sign_are_refused():
    runs = table()
    with pytest.raises(InputError, match="is the column a sparsity"):
        check_directions(table(test_error=runs.load))
    with pytest.raises(InputError, match="a barrier must be negative"):
        check_directions(table(lmc=-runs.connectivity))


def test_knobs_that_follow_the_load_are_refused_and_a_corner_more_helps():
    """Two settings a density, on a diagonal: either may be what moves the error."""
    at = np.arange(8) // 2
    columns = {
        "epochs": 10.0 * 2**at + np.arange(8) % 2,
        "density": 0.05 * 2.0**at,
        "test_error": 0.3 - 0.05 * at,
        "lmc": -0.01 * np.ones(8),
        "cka": 0.9 + 0.01 * at,
    }
    with pytest.raises(InputError, match="'epochs' and density change together"):
        check_apart(read_runs(columns, check=False))
    corner = {"epochs": 85.0, "density": 0.05, "test_error": 0.3, "lmc": -0.01, "cka": 0.9}
    more = {name: np.append(values, corner[name]) for name, values in columns.items()}
    check_apart(read_runs(more, check=False))
    check_apart(table())


def test_few_runs_may_follow_the_load_by_chance_and_that_is_noted():
    """Seven runs of two knobs: ranks explain 87 % of the load's, adjusted for two knobs 81 %."""
    rate = np.array([1.0, 2, 3, 4, 5, 7, 6])
    columns = {
        "lr": rate,
        "batch_size": np.array([32.0, 8, 64, 16, 256, 4, 128]),
        "density": np.array([0.1, 0.2, 0.4, 0.3, 0.6, 0.7, 0.5]),
        "test_error": 0.3 - 0.01 * np.arange(7),
        "lmc": -0.01 * np.ones(7),
        "cka": 0.9 + 0.01 * np.arange(7),
    }
    (note,) = check_apart(read_runs(columns, check=False))
    assert "'lr' and 'batch_size' and density change together" in note
    assert "hard to tell apart" in note
    assert note in read_runs(columns).notes
    with pytest.raises(InputError, match="cannot be told apart"):
        check_apart(read_runs(columns | {"lr": columns["density"]}, check=False))
    assert check_apart(table()) == ()


def test_a_similarity_that_is_a_distance_is_refused():
    runs = table()
    for lmc in (runs.connectivity, -0.1 / runs.load):
        with pytest.raises(
            InputError, match=r"rank correlation -1.00 over 9 .* cka = 1 - distance"
        ):
            check_directions(table(lmc=lmc, cka=0.1 - 0.1 * runs.load))
    # Where barriers do not vanish, or the order may be chance, it is none.
    assert check_directions(table(lmc=np.zeros(9), cka=0.1 - 0.1 * runs.load)) == ()
    loose = np.array([0.9, 0.95, 0.85, 0.92, 0.9, 0.89, 0.88, 0.91, 0.87])
    assert check_directions(table(cka=loose)) == ()


def test_errors_that_are_all_the_same_are_noted():
    (note,) = check_directions(table(test_error=np.zeros(9)))
    assert "the error is 0 in every run" in note
