"""Tables of measured winners: keys, neighbours, files."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels import dispatch, tables
from probcomp.kernels.dispatch import Problem, choose
from probcomp.kernels.tables import case_key, density_bucket, device_slug, lookup, save_table
from probcomp.storage import write_json

CPU = torch.device("cpu")


def problem(shape=(256, 256), rows=16, density=0.3):
    return Problem("blocks", CPU, torch.float32, shape, (32, 32), density, rows, True)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tables, "_SHIPPED", tmp_path / "shipped")
    tables._read.cache_clear()
    dispatch.forget_choices()
    yield tables.user_folder()
    tables._read.cache_clear()
    dispatch.forget_choices()


def write(folder, rows, times, density=0.3, shape="256x256"):
    key = case_key("blocks", torch.float32, (32, 32), rows, density)
    save_table(folder, device_slug("cpu"), {}, {key: {shape: times}})
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


def test_a_winner_is_not_lent_across_batch_sizes_or_far_shapes(folder) -> None:
    write(folder, 16, {"dense": 10.0, "gather": 5.0})
    assert lookup(problem(rows=1)) is None
    assert lookup(problem(shape=(256, 512))) is not None
    assert lookup(problem(shape=(2048, 2048))) is None


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


def test_a_table_of_another_version_is_refused(folder) -> None:
    write_json(folder / f"{device_slug('cpu')}.json", {"version": 99})
    with pytest.raises(InputError, match="tune again"):
        lookup(problem())
