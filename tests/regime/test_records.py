"""Rows of pilots: means, what is left out, and a table that is read back."""

import pytest

from probcomp.errors import InputError
from probcomp.regime import read_runs
from probcomp.regime.records import pilot_columns, pilot_rows, table_name, write_table


def record(epochs: int, density: float, errors: tuple[float, float]) -> dict:
    runs = [
        {
            "density_realised": density, "test_error": error, "train_error": 0.0,
            "pruned_test_error": 0.5, "wall_s": 2.0,
        }
        for error in errors
    ]  # fmt: skip
    pair = {"lmc": -0.1, "cka_softmax": 0.9, "agreement": 0.8, "wall_s": 1.0}
    config = {"recipe": {"epochs": epochs}, "density": density, "dense_seed": 0}
    dense = {"test_error": 0.05}
    return {"status": "done", "config": config, "runs": runs, "pairs": [pair], "dense": dense}


LOST = {"status": "diverged", "reason": "the loss is nan at step 3", "runs": [], "pairs": []}


def test_a_row_is_the_mean_of_its_models_and_what_diverged_has_none():
    (row,) = pilot_rows([LOST, record(4, 0.1, (0.1, 0.3))], "epochs")
    assert row["test_error"] == pytest.approx(0.2)
    assert row["epochs"] == 4
    assert row["wall_s"] == 5.0


def test_where_all_diverged_the_reason_is_told():
    with pytest.raises(InputError, match="no pilot ended well: the loss is nan at step 3"):
        pilot_columns([LOST, LOST], "epochs")
    with pytest.raises(InputError, match="none was run"):
        pilot_columns([], "epochs")


def test_a_table_is_read_back(tmp_path):
    records = [
        record(epochs, density, (error, error + 0.01))
        for epochs, density, error in ((1, 0.1, 0.3), (4, 0.1, 0.2), (1, 0.8, 0.1), (4, 0.8, 0.07))
    ]
    records += [LOST, record(2, 0.3, (0.15, 0.16))]
    write_table(records, "epochs", tmp_path / "runs.csv")
    table = read_runs(tmp_path / "runs.csv")
    assert len(table) == 5
    assert table.knobs[0].name == "epochs"
    assert sorted(table.error.round(6)) == [0.075, 0.105, 0.155, 0.205, 0.305]


def test_every_set_of_pilots_has_its_table():
    def kept(*keys):
        return [{"task": "my net / v2", "key": key} for key in keys]

    name = table_name(kept("a", "b"), 0.08)
    assert name.startswith("my-net-v2-density-0.08-")
    assert name.endswith(".csv")
    assert name == table_name(kept("b", "a"), 0.08)  # the same campaign, resumed
    assert len({name, table_name(kept("a", "b"), 0.1), table_name(kept("a", "c"), 0.08)}) == 3
