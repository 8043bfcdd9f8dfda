"""What is read, what is refused, and in which words."""

import numpy as np
import pytest

from probcomp.errors import InputError
from probcomp.regime.knobs import Knob
from probcomp.regime.table import read_runs


def runs(**change):
    """Nine good runs in fractions, colder = more epochs, with columns replaced by ``change``."""
    epochs, density = np.meshgrid([20.0, 80.0, 160.0], [0.05, 0.2, 0.8], indexing="ij")
    columns = {
        "epochs": epochs.ravel(),
        "density": density.ravel(),
        "test_error": 0.1 / density.ravel() ** 0.2,
        "lmc": -0.3 * (epochs.ravel() > 100) * (density.ravel() < 0.1),
        "cka": 0.9 + 0.1 * density.ravel(),
    }
    columns.update(change)
    return {name: value for name, value in columns.items() if value is not None}


def test_units_and_spellings_make_no_difference():
    plain = read_runs(runs())
    other = runs(density=None, test_error=None, lmc=None, epochs=None, cka=None)
    base = runs()
    other |= {
        "Train_Epochs": base["epochs"],
        "sparsity": 1 - base["density"],
        "test_acc": 100 * (1 - base["test_error"]),
        "lmc_barrier": 100 * base["lmc"],
        "CKA": base["cka"],
    }
    table = read_runs(other)
    np.testing.assert_allclose(table.error, plain.error, atol=1e-12)
    np.testing.assert_allclose(table.load, plain.load, atol=1e-12)
    np.testing.assert_allclose(table.connectivity, plain.connectivity, atol=1e-12)
    assert table.knobs[0].hotter == "down"
    assert any("per cent" in note for note in table.notes)


def test_a_csv_file_reads_like_its_columns(tmp_path):
    columns = runs()
    lines = [",".join(columns)] + [
        ",".join(map(repr, map(float, row))) for row in zip(*columns.values())
    ]
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    read, plain = read_runs(tmp_path / "runs.csv"), read_runs(columns)
    np.testing.assert_array_equal(read.settings, plain.settings)
    np.testing.assert_array_equal(read.error, plain.error)


def test_constant_known_columns_are_dropped_when_another_knob_moves():
    table = read_runs(runs(lr=np.full(9, 0.1)))
    assert [knob.name for knob in table.knobs] == ["epochs"]


def test_shares_in_per_cent_and_of_what_was_removed_are_the_same_loads():
    plain, base = read_runs(runs()), runs()
    for name, values in (
        ("density", 100 * base["density"]),
        ("sparsity", 100 * (1 - base["density"])),
        ("p_ratio", 1 - base["density"]),
        ("Pruning_Ratio", 100 - 100 * base["density"]),
    ):
        table = read_runs(runs(density=None) | {name: values})
        np.testing.assert_allclose(table.load, plain.load, atol=1e-12)
        assert table.load_name == "density"
        assert any(name in note for note in table.notes)
    table = read_runs(runs(width=np.tile([8.0, 16, 64], 3)), load="width")
    assert table.load.tolist() == [8, 16, 64] * 3


def test_a_similarity_that_was_rounded_up_is_one():
    cka = np.where(np.arange(9) == 8, 1.0005, runs()["cka"])
    assert read_runs(runs(cka=cka)).similarity[8] == 1


def test_rows_of_one_task_are_chosen_by_text_or_by_number():
    both = {k: np.concatenate([v, v]) for k, v in runs().items()}
    both["test_error"] = both["test_error"] + 0.1 * (np.arange(18) > 8)
    for column, values, chosen in (
        ("arch", ["mlp"] * 9 + ["cnn"] * 9, "cnn"),
        ("data", [5000.0] * 9 + [2500] * 9, "2500"),
    ):
        table = read_runs(both | {column: values}, where={column: chosen})
        assert len(table) == 9
        np.testing.assert_allclose(table.error, runs()["test_error"] + 0.1)
    # Any column will do; and one of `TASKS` that is the knob or the load tells no tasks apart.
    assert len(read_runs(both | {"note": ["x"] * 9 + ["y"] * 9}, where={"note": "y"})) == 9
    data = runs(density=None, data=runs()["density"])
    assert read_runs(data, load="data").load_name == "data"


def test_a_knob_that_is_named_as_the_load_is_none():
    rate, epochs = np.repeat([0.4, 0.1, 0.02], 3), np.tile([9.0, 30, 99], 3)
    table = read_runs(runs(density=None, lr=rate, epochs=epochs), load="epochs")
    assert table.load_name == "epochs"
    assert [knob.name for knob in table.knobs] == ["lr"]


def test_directions_are_read_in_any_case():
    assert read_runs(runs(), knobs=["epochs: Down"]).knobs[0].hotter == "down"


def test_two_spellings_of_one_knob_are_one_knob():
    rate = np.repeat([0.4, 0.1, 0.02], 3)
    table = read_runs(runs(epochs=None, learning_rate=rate, lr=rate))
    assert [knob.name for knob in table.knobs] == ["learning_rate"]


def test_replicates_share_a_cell():
    columns = {name: np.concatenate([value, value[:2]]) for name, value in runs().items()}
    columns["test_error"][-2:] += 0.001
    cells = read_runs(columns).cells
    assert list(cells[9:]) == list(cells[:2])
    assert len(set(cells)) == 9


def test_coordinates_rise_with_heat():
    assert np.all(np.diff(Knob("momentum", "up", "log1m").coordinate([0.5, 0.9, 0.99])) > 0)
    assert np.all(np.diff(Knob("batch_size", "down").coordinate([256, 64, 16])) > 0)
    for warp in (0.0, 0.5, 1.0):
        epochs = Knob("epochs", "down", "schedule").coordinate([160, 80, 10], warp)
        assert np.all(np.diff(epochs) > 0)


NAN = np.where(np.arange(9) == 4, np.nan, 0.1)
BAD = {
    "too few": (lambda: {k: v[:4] for k, v in runs().items()}, {}, "4 distinct pilots; at least 5"),
    "one density": (lambda: runs(density=np.full(9, 0.1)), {}, "one density only"),
    "no error": (lambda: runs(test_error=None), {}, "missing column: test_error"),
    "no lmc, no cka": (lambda: runs(lmc=None, cka=None), {}, "missing columns: lmc"),
    "no knob": (lambda: runs(epochs=None), {}, "a knob"),
    "nan": (lambda: runs(test_error=NAN), {}, "row 5"),
    "constant": (lambda: runs(epochs=np.full(9, 80.0)), {}, "constant at 80"),
    "constant named": (lambda: runs(lr=np.full(9, 0.1)), {"knobs": ["lr"]}, "constant at 0.1"),
    "wrong way": (lambda: runs(), {"knobs": ["epochs:up"]}, "the direction is 'down'"),
    "no direction": (
        lambda: runs(noise=np.arange(9.0)),
        {"knobs": ["noise"]},
        "which way is hotter",
    ),
    "no such direction": (
        lambda: runs(),
        {"knobs": ["epochs:sideways"]},
        "write epochs:up if a larger value is hotter",
    ),
    "a load as knob": (
        lambda: runs(),
        {"also": ["density:up"]},
        "'density' is read as a load and can be no knob; name what training was turned by: epochs",
    ),
    "an error beyond all": (
        lambda: runs(test_error=np.full(9, 250.0)),
        {},
        "test_error runs from 250 to 250; expected 0 to 100",
    ),
    "absent knob": (lambda: runs(), {"knobs": ["epoch"]}, "Did you mean"),
    "sparsity as density": (
        lambda: runs(density=1 - runs()["density"]),
        {},
        "is the column a sparsity",
    ),
    "barrier sign": (lambda: runs(lmc=-runs()["lmc"]), {}, "must be negative"),
    "text": (lambda: runs(cka=["high"] * 9), {}, "'high' is not a number"),
    "decimal comma": (lambda: runs(cka=["0,9"] * 9), {}, "'0,9' is not a number; decimals need a"),
    "a knob that follows the load": (
        lambda: runs(epochs=np.tile([20.0, 80.0, 160.0], 3) + np.arange(9)),
        {},
        "'epochs' and density change together",
    ),
    "range": (lambda: runs(cka=np.full(9, 3.0)), {}, "expected 0 to 1"),
    "density above one": (lambda: runs(density=runs()["density"] * 1.5), {}, "must lie in"),
    "density of 400 %": (lambda: runs(density=runs()["density"] * 500), {}, "must lie in"),
    "all was removed": (
        lambda: runs(density=None, sparsity=np.tile([0.5, 0.9, 1.0], 3)),
        {},
        r"sparsity must lie in \[0, 1\); got 0.5 to 1",
    ),
    "two tasks": (lambda: runs(Dataset=["a", "b", "b"] * 3), {}, "choose one, as in Dataset=a"),
    "unequal lengths": (
        lambda: runs(cka=[0.9] * 11),
        {},
        "differ in length: 'epochs' has 9 rows, 'cka' 11",
    ),
    "shares and per cent": (
        lambda: runs(density=np.tile([0.05, 20.0, 80.0], 3)),
        {},
        "some in per cent, others not",
    ),
    "a task without a name": (lambda: runs(task=["a", "", ""] * 3), {}, r"a, \(blank\)"),
    "absent task": (
        lambda: runs(task=["a", "b", "b"] * 3),
        {"where": {"task": "c"}},
        "no run has task c; there are: a, b",
    ),
    "absent column": (lambda: runs(), {"where": {"taks": "c"}}, "unknown column 'taks'"),
    "a task with too few": (
        lambda: runs(task=["a", "b", "b"] * 3),
        {"where": {"task": "a"}},
        "one density only",
    ),
    "negative batch": (
        lambda: runs(bs=np.arange(-1.0, 8.0)),
        {},
        "logarithm. Leave such runs out, or the column",
    ),
    "empty": (lambda: {k: [] for k in runs()}, {}, "no rows"),
    "absent load": (lambda: runs(), {"load": "depth"}, "no load column"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_refused_in_one_line(case):
    columns, options, words = BAD[case]
    with pytest.raises(InputError, match=words) as caught:
        read_runs(columns(), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_files_of_spreadsheets_are_read(start, ends, tmp_path):
    """With a byte-order mark, with blank lines between and behind."""
    columns = runs()
    lines = [",".join(columns)] + [",".join(map(str, row)) for row in zip(*columns.values())]
    text = start + ends.join([*lines[:4], "", *lines[4:], ",,,,", "", ""])
    (tmp_path / "runs.csv").write_bytes(text.encode())
    np.testing.assert_allclose(read_runs(tmp_path / "runs.csv").error, columns["test_error"])
    (tmp_path / "ragged.csv").write_text(ends.join([*lines[:4], "", "1,2", *lines[4:]]))
    with pytest.raises(InputError, match="line 6: 2 values for 5 columns"):
        read_runs(tmp_path / "ragged.csv")


def test_headings_with_blanks_and_shares_with_per_cent_signs_are_read():
    base = runs()
    plain = read_runs(base)
    other = {
        "Epochs": base["epochs"],
        "Pruning Ratio": [f"{100 * (1 - value):.6g}%" for value in base["density"]],
        "Test-Error": [f"{100 * value:.9g} %" for value in base["test_error"]],
        "LMC": base["lmc"],
        "CKA": base["cka"],
    }
    table = read_runs(other)
    np.testing.assert_allclose(table.load, plain.load)
    np.testing.assert_allclose(table.error, plain.error, rtol=1e-8)
    assert read_runs(runs(epochs=None, **{"Batch Size": base["epochs"]})).knobs[0].physical


def test_large_shares_of_errors_are_noted():
    """MNIST's 0.4 to 0.9 per cent would pass for shares."""
    assert read_runs(runs()).notes == ()
    (note,) = read_runs(runs(test_error=4 * runs()["test_error"])).notes
    assert "read as a share of 1 (42% to 73% wrong)" in note


def test_rows_that_are_there_twice_count_once():
    base = runs()
    twice = {name: np.r_[values, values[:4]] for name, values in base.items()}
    table = read_runs(twice)
    np.testing.assert_array_equal(table.error, read_runs(base).error)
    assert any("4 rows equal another" in note for note in table.notes)
    twice["test_error"][-4:] += 1e-4  # a repeat of a run, not a copy
    assert len(read_runs(twice)) == 13


@pytest.mark.parametrize("column", ["seed", "Dense Seed", "retrain_seed"])
def test_equal_rows_of_two_seeds_are_two_runs(column):
    """A test set of a hundred, or no barrier anywhere: seeds may agree in every digit."""
    twice = {name: np.r_[values, values] for name, values in runs().items()}
    assert len(read_runs(twice)) == 9
    table = read_runs(twice | {column: ["a"] * 9 + ["b"] * 9})
    assert len(table) == 18
    assert table.notes == ()
    assert len(read_runs(twice | {column: ["a"] * 18})) == 9


def test_a_barrier_in_shares_beside_errors_in_per_cent_is_noted():
    """Barriers below one per cent would pass for ones of nearly the whole train set."""
    base = runs()
    notes = read_runs(runs(test_error=100 * base["test_error"], lmc=2.5 * base["lmc"])).notes
    assert "lmc was read as a share of 1 (barriers up to 0.75), though test_error is in" in notes[1]
    for same in (100.0, 0.0):  # both in per cent; no barrier at all
        said = read_runs(runs(test_error=100 * base["test_error"], lmc=same * base["lmc"])).notes
        assert not any("share of 1" in note for note in said)
    assert read_runs(base).notes == ()


def test_a_knob_of_zero_that_never_moves_is_left_alone():
    """No logarithm of it is taken."""
    assert [k.name for k in read_runs(runs(weight_decay=np.zeros(9))).knobs] == ["epochs"]


def test_a_knob_is_added_to_those_found_by_name():
    columns = runs(noise=np.r_[1.0, 2, 3, 2, 3, 1, 3, 1, 2], lr=np.full(9, 0.1))
    table = read_runs(columns, also=["noise:up"])
    assert {knob.name for knob in table.knobs} == {"epochs", "noise"}
    assert len(read_runs(columns, also=["epochs"]).knobs) == 1
    assert [k.name for k in read_runs(columns, knobs=["noise:up"]).knobs] == ["noise"]
    with pytest.raises(InputError, match=r"'lr' is constant at 0\.1"):
        read_runs(columns, also=["lr"])


def test_two_columns_whose_names_differ_in_capitals_only_are_refused():
    with pytest.raises(InputError, match="'lmc' and 'LMC' are one"):
        read_runs(runs() | {"LMC": np.zeros(9)})
    assert len(read_runs(runs() | {"Loss": np.zeros(9), "loss": np.ones(9)})) == 9  # not read


def test_the_load_is_one_that_varies():
    """Networks of a family, all pruned to one density: what is chosen is the width."""
    width = np.tile([64.0, 16, 8], 3)
    table = read_runs(runs(density=np.full(9, 0.2), width=width[::-1]))
    assert table.load_name == "width"
    assert read_runs(runs(width=np.full(9, 8.0))).load_name == "density"


def test_a_table_that_is_read_again_says_nothing_twice():
    table = read_runs(runs(test_error=4 * runs()["test_error"]))
    hot = Knob("noise", "down", "linear")
    doubted = runs(epochs=None, noise=np.repeat([3.0, 2.0, 1.0], 3))
    doubted["lmc"] = -0.1 * np.repeat([0.0, 1.0, 2.0], 3) - 0.01 * np.tile([1.0, 0, 0], 3)
    for once in (table, read_runs(doubted, knobs=[hot])):
        assert len(once.notes) == 1
        assert read_runs(once).notes == once.notes


def test_seeds_are_told_apart_by_their_labels():
    assert read_runs(runs()).seed is None
    table = read_runs(runs(dense_seed=["b", "a", "a"] * 3))
    np.testing.assert_array_equal(table.seed, [1, 0, 0] * 3)
    np.testing.assert_array_equal(table.take([0, 1]).seed, [1, 0])


def test_labels_of_runs_are_no_tasks():
    assert len(read_runs(runs(model=[f"run{k}" for k in range(9)]))) == 9


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        read_runs(tmp_path / "nowhere.csv")
    (tmp_path / "ragged.csv").write_text("a,b\n1\n")
    with pytest.raises(InputError, match="line 2"):
        read_runs(tmp_path / "ragged.csv")


def test_a_knob_that_looks_turned_round_is_noted():
    hot = Knob("noise", "down", "linear")
    columns = runs(epochs=None, noise=np.repeat([3.0, 2.0, 1.0], 3))
    columns["lmc"] = -0.1 * np.repeat([0.0, 1.0, 2.0], 3) - 0.01 * np.tile([1.0, 0, 0], 3)
    table = read_runs(columns, knobs=[hot])
    assert any("check its direction" in note for note in table.notes)


def test_a_blank_in_a_column_that_may_be_absent_blocks_nothing():
    """A timer that crashed; a standard error that nobody wrote down."""
    table = read_runs(runs(wall_s=["3.0"] * 8 + [""], lmc_se=[None, *[0.01] * 7, 0.03]))
    np.testing.assert_array_equal(table.cost, [3.0] * 8 + [np.nan])
    np.testing.assert_allclose(table.measured[:, 1], [*[0.01] * 8, 0.03])
    assert table.notes == ("lmc_se was taken for 0.01 where it is blank.",)
    assert np.all(read_runs(runs(cka_se=[""] * 9)).measured == 0)
    with pytest.raises(InputError, match="'wall_s' has 1 infinite"):
        read_runs(runs(wall_s=[1.0] * 8 + [np.inf]))


def test_rows_without_a_value_can_be_left_out(tmp_path):
    base = runs()
    lines = [",".join(base)] + [",".join(map(str, row)) for row in zip(*base.values())]
    lines[5] = ",".join(lines[5].split(",")[:4]) + ","  # its CKA
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"'cka' has 1 missing .* line 6 .*--where cka!= of"):
        read_runs(tmp_path / "runs.csv")
    table = read_runs(tmp_path / "runs.csv", where={"cka!": ""})
    assert len(table) == 8
    assert table.notes == ("1 row with cka (blank) was left out.",)
