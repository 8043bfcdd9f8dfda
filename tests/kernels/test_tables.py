"""Tables of measured winners: keys, neighbours, files."""

from pathlib import Path

import pytest
import torch

from probcomp.kernels import dispatch, tables
from probcomp.kernels.dispatch import Problem, choose
from probcomp.kernels.tables import case_key, density_bucket, device_name, lookup, save_table
from probcomp.storage import read_json

CPU = torch.device("cpu")


def problem(shape=(256, 256), rows=16, density=0.3):
    return Problem("blocks", CPU, torch.float32, shape, (32, 32), density, rows, True)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tables, "_SHIPPED", tmp_path / "shipped")
    tables.forget_tables()
    dispatch.forget_choices()
    yield tables.user_folder()
    tables.forget_tables()
    dispatch.forget_choices()


def write(folder, rows, times, density=0.3, shape="256x256", device=None):
    key = case_key("blocks", torch.float32, (32, 32), rows, density)
    save_table(folder, device or device_name("cpu"), {}, {key: {shape: {"us": times}}})
    dispatch.forget_choices()


def test_density_buckets_are_nearest_by_ratio() -> None:
    assert density_bucket(0.27) == 0.3
    assert density_bucket(0.0) == 0.05
    assert density_bucket(0.95) == 1.0


def test_a_measured_winner_beats_the_rule_and_dense_can_win(folder) -> None:
    write(folder, 16, {"dense": 10.0, "gather": 5.0})
    choice = choose(problem())
    assert choice.backend == "gather"
    assert "measured here" in choice.reason
    write(folder, 16, {"dense": 4.0, "gather": 5.0}, density=0.05)
    assert choose(problem(density=0.05)).backend == "dense"


def test_a_win_within_the_noise_of_timings_is_left_to_dense(folder) -> None:
    write(folder, 16, {"dense": 10.0, "gather": 9.7})
    assert lookup(problem()).winner == "dense"
    write(folder, 16, {"dense": 10.0, "gather": 9.4})
    assert lookup(problem()).winner == "gather"


def test_another_shape_or_a_denser_weight_must_win_by_more(folder) -> None:
    """A loss is worse than a gain that is missed."""
    write(folder, 16, {"dense": 10.0, "gather": 8.5})
    assert lookup(problem()).winner == "gather"
    assert lookup(problem(shape=(256, 257))).winner == "dense"
    assert lookup(problem(density=0.38)).winner == "dense"
    assert lookup(problem(density=0.25)).winner == "gather"
    key = case_key("blocks", torch.float32, (32, 32), 16, 0.3)
    case = {"us": {"dense": 10.0, "gather": 8.5}, "density": 0.38}  # as it was timed
    save_table(folder, device_name("cpu"), {}, {key: {"256x256": case}})
    assert lookup(problem(density=0.38)).winner == "gather"
    write(folder, 16, {"dense": 10.0, "gather": 7.9})
    assert lookup(problem(shape=(256, 257))).winner == "gather"


def test_a_winner_is_not_lent_across_batch_sizes_or_far_shapes(folder) -> None:
    write(folder, 16, {"dense": 10.0, "gather": 5.0})
    assert lookup(problem(rows=1)) is None
    assert lookup(problem(shape=(256, 512))) is not None
    assert lookup(problem(shape=(2048, 2048))) is None


def test_a_larger_neighbour_lends_no_winner_to_what_is_too_small_for_its_call(folder) -> None:
    write(folder, 16, {"dense": 10.0, "gather": 5.0}, shape="1024x1024")
    small = problem(shape=(512, 512))
    assert lookup(small).winner == "gather"
    assert choose(small).backend == "dense"
    assert "too small for gather" in choose(small).reason
    assert choose(problem(shape=(1024, 1000))).backend == "gather"


def test_the_users_table_comes_before_the_shipped_one(folder, monkeypatch) -> None:
    write(tables._SHIPPED, 16, {"dense": 1.0, "gather": 2.0})
    assert lookup(problem()).source.startswith("shipped")
    write(folder, 16, {"dense": 2.0, "gather": 1.0})
    assert lookup(problem()).winner == "gather"


def test_deterministic_algorithms_leave_only_the_rule(folder) -> None:
    write(folder, 16, {"dense": 10.0, "gather": 5.0})
    torch.use_deterministic_algorithms(True)
    try:
        assert "break-even" in choose(problem()).reason
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("content", ['{"version": 99}', "[]", "{not json"])
@pytest.mark.parametrize("of", ["this", "a stray"])
def test_a_table_of_another_version_is_left_aside_with_a_warning(folder, content, of) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = device_name("cpu").slug if of == "this" else "stray"
    (folder / f"{name}.json").write_text(content)
    with pytest.warns(UserWarning, match="tune again"):
        assert lookup(problem()) is None
    assert lookup(problem()) is None  # said once


def test_a_relatives_clear_win_is_believed_and_a_narrow_one_is_not(folder) -> None:
    here = device_name("cpu")
    cousin = here._replace(slug="cousin")
    write(tables._SHIPPED, 16, {"dense": 10.0, "gather": 5.0}, device=cousin)
    assert lookup(problem()).winner == "gather"
    assert "measured on cousin" in choose(problem()).reason
    write(tables._SHIPPED, 16, {"dense": 10.0, "gather": 9.0}, device=cousin)
    assert lookup(problem()).winner == "dense"
    write(tables._SHIPPED, 16, {"dense": 10.0, "gather": 5.0},
          device=cousin._replace(family="other"))  # fmt: skip
    assert lookup(problem()) is None
    assert "break-even" in choose(problem()).reason


def test_this_device_comes_before_a_relative_of_the_users(folder) -> None:
    write(folder, 16, {"dense": 10.0, "gather": 5.0},
          device=device_name("cpu")._replace(slug="cousin"))  # fmt: skip
    write(tables._SHIPPED, 16, {"dense": 1.0, "gather": 5.0})
    entry = lookup(problem())
    assert entry.winner == "dense"
    assert entry.source.startswith("shipped")


def test_the_winner_is_one_that_runs_here(folder) -> None:
    write(folder, 16, {"dense": 10.0, "gather": 5.0, "cpp": 1.0})
    assert lookup(problem()).winner == "cpp"
    assert lookup(problem(), ("dense", "gather")).winner == "gather"
    assert lookup(problem(), ("dense",)).winner == "dense"


@pytest.mark.parametrize(("built", "winner"), [(True, "dense"), (False, "panels")])
def test_dense_is_what_it_is_here(folder, monkeypatch, built: bool, winner: str) -> None:
    """With the C++ kernel dense is faster than without; a table knows both."""
    monkeypatch.setattr(tables.cpp, "available", lambda: built)
    write(folder, 16, {"dense": 5.0, tables.LIBRARY: 10.0, "panels": 7.0})
    entry = lookup(problem())
    assert entry.winner == winner
    assert entry.microseconds == {"dense": 5.0 if built else 10.0, "panels": 7.0}


def test_threads_and_families_have_names_of_their_own() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = device_name("cpu")
        torch.set_num_threads(2)
        two = device_name("cpu")
    finally:
        torch.set_num_threads(before)
    assert one.slug != two.slug
    assert one.family.removesuffix("-one-thread") == two.family.removesuffix("-several-threads")


def test_the_shipped_tables_are_whole_and_dense_is_in_every_case() -> None:
    folder = Path(tables.__file__).parent / "tables"
    paths = sorted(folder.glob("*.json"))
    assert paths
    for path in paths:
        table = read_json(path)
        assert table["version"] == tables.TABLE_VERSION
        assert table["slug"] == path.stem
        assert {"torch", "date", "buckets"} <= set(table["meta"])
        for shapes in table["cases"].values():
            for case in shapes.values():
                assert case["us"]["dense"] > 0
                assert case["us"].keys() == case["median"].keys() == case["p80"].keys()
                assert case["error"] < 1e-3


def test_the_wheel_holds_the_tables_and_the_sources() -> None:
    """Package data are found beside the modules, so they must be in every build."""
    root = Path(tables.__file__).parents[2]
    if not (root / "pyproject.toml").is_file():
        pytest.skip("an installed package: it was built from a wheel")
    hatchling = pytest.importorskip("hatchling.builders.wheel")
    builder = hatchling.WheelBuilder(str(root))
    built = {Path(file.distribution_path).as_posix() for file in builder.recurse_included_files()}
    wanted = [*(root / "probcomp/kernels/tables").glob("*.json"),
              *(root / "probcomp/kernels/csrc").iterdir()]  # fmt: skip
    assert {path.relative_to(root).as_posix() for path in wanted} <= built
