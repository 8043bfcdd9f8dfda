"""The reference goes on where it was, and has more seeds where they differ more."""

import numpy as np
import pytest


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
