"""Launch configurations: each gives the same numbers, and the launcher takes the table's."""

import pytest
import torch

from probcomp.kernels import masked_linear, tables, tiles, tuning
from probcomp.kernels.tiles import Tile
from probcomp.storage import read_json
from tests.kernels.interpreted.test_block_linear import example, reference
from tests.kernels.supports import generator, relative_error


@pytest.fixture(autouse=True)
def own_tables(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tables.forget_tables()
    tiles.forget_tiles()
    yield
    tables.forget_tables()
    tiles.forget_tiles()


def launched(x, packed):
    """The launch, its fixed configuration and the output."""
    with tiles.watched() as seen:
        y = masked_linear(x, packed, backend="triton")
    ((launch, fixed),) = seen
    return launch, fixed, y


@pytest.mark.parametrize("m", [1, 5, 40])
@pytest.mark.parametrize("block", [(32, 16), (64, 32)])
def test_every_candidate_gives_the_same_numbers(m, block) -> None:
    packed = example(96, 80, block, 0.5)
    x = torch.randn(m, 80, generator=generator(5))
    launch, fixed, y = launched(x, packed)
    able = tiles.candidates(launch, fixed)
    assert able[0] == fixed
    assert len(set(able)) == len(able) > 3
    assert {t.rows for t in able} == ({fixed.rows} if m <= 16 else {64, 128})
    for tile in able:
        with tiles.using(tile):
            got = masked_linear(x, packed, backend="triton")
        assert relative_error(got, reference(x, packed)) < 2e-6
        assert torch.equal(got, y)


@pytest.mark.parametrize("m", [1, 40])
def test_the_launcher_takes_the_tables_entry(m, monkeypatch) -> None:
    packed = example(96, 80, (32, 16), 0.5)
    x = torch.randn(m, 80, generator=generator(5))
    launch, fixed, _ = launched(x, packed)
    assert tiles.chosen(launch, fixed) == fixed
    entry = {"x".join(map(str, launch.shape)): {"us": {"64/2/3": 1.0, "128/8/7": 2.0}}}
    device = tables.device_name("cpu")
    tables.save_table(tables.user_folder(), device, {}, {}, {launch.key(): entry})
    tiles.forget_tiles()
    assert tiles.chosen(launch, fixed) == Tile(64, 2, 3)

    from probcomp.kernels.gpu import block_forward, block_gemv

    kernel = block_gemv if m == 1 else block_forward
    real, used = kernel.options, []
    monkeypatch.setattr(kernel, "options", lambda w, s: used.append((w, s)) or real(w, s))
    masked_linear(x, packed, backend="triton")
    assert used == [(2, 3)]
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert tiles.chosen(launch, fixed) == fixed


def test_tuning_times_each_configuration_and_keeps_them() -> None:
    packed = example(64, 64, (32, 32), 0.5)
    for m in (1, 2):  # the second call keeps what the first one wrote
        path = tuning.tune([packed], M=[m], rounds=1)
    kept = read_json(path)["tiles"]
    assert [key.split("|")[0] for key in kept] == ["block_gemv", "block_forward"]
    launch, fixed, _ = launched(torch.randn(2, 64), packed)
    us = kept[launch.key()]["64x64"]["us"]
    assert {Tile(*map(int, name.split("/"))) for name in us} == set(tiles.candidates(launch, fixed))
    assert "/".join(map(str, tiles.chosen(launch, fixed))) == min(us, key=us.get)


def test_what_does_not_fit_the_device_is_no_candidate(monkeypatch) -> None:
    packed = example(256, 128, (128, 64), 1.0)
    launch, fixed, _ = launched(torch.randn(200, 128), packed)
    small = tiles.candidates(launch, fixed)
    monkeypatch.setattr(tiles, "SHARED", 232448)
    large = tiles.candidates(launch, fixed)
    assert set(small) < set(large)
    assert all(tiles.shared_bytes(launch, t) <= 65536 for t in small[1:])


def test_a_configuration_that_fails_is_left_out(monkeypatch) -> None:
    def failing(x, packed, backend="auto"):
        forced = tiles._forced.get()
        if forced is not None and forced.warps == 8:
            raise RuntimeError("out of resources")
        return masked_linear(x, packed, backend=backend)

    monkeypatch.setattr(tuning, "masked_linear", failing)
    _, us = tuning.time_tiles(example(64, 64, (32, 32), 0.5), 2, rounds=1)
    assert us
    assert not any(name.split("/")[1] == "8" for name in us)
