"""What a table must hold: each refusal, and what is let through."""

import numpy as np
import pytest

from probcomp.errors import InputError
from probcomp.regime.checks import check_directions, check_enough
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
