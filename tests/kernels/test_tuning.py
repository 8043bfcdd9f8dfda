"""The tuner: what it times, what it refuses to, and what it writes."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels import cpp, masked_linear, tables, tuning
from probcomp.kernels.dispatch import choose
from probcomp.kernels.tuning import problem_of, time_backends, tune
from probcomp.storage import read_json
from tests.kernels.test_planning import example, own_cache

__all__ = ["own_cache"]  # the fixture applies to this file too


def test_a_wrong_backend_is_not_timed(monkeypatch) -> None:
    def broken(x, packed, backend="auto"):
        y = masked_linear(x, packed, backend=backend)
        return y + 1 if backend == "gather" else y

    monkeypatch.setattr(tuning, "masked_linear", broken)
    with pytest.raises(InputError, match="'gather' is off by"):
        time_backends(example(), 4, rounds=1)


def test_tuning_writes_a_table_that_decides_the_next_choice() -> None:
    packed = example()
    path = tune([packed], M=[16], rounds=3)
    assert path.parent == tables.user_folder()
    choice = choose(problem_of(packed, 16))
    assert choice.reason.startswith("table: measured here")
    times = packed.plan(M=[16]).rows[0].microseconds
    best = min(times, key=times.get)
    assert choice.backend in (best, "dense")
    assert times["dense"] < tables.SURE * times[best] or choice.backend == best
    tune([packed], M=[1], rounds=3)  # merged, not replaced
    assert choose(problem_of(packed, 16)).reason.startswith("table: measured here")


def test_a_cold_timing_clears_the_cache_before_each_run_and_does_not_count_it(monkeypatch) -> None:
    now, seen = [0.0], []

    class Event:
        def __init__(self, enable_timing):
            self.at = 0.0

        def record(self):
            self.at = now[0]

        def elapsed_time(self, other):
            return 1e3 * (other.at - self.at)

    class Cache:
        def zero_(self):
            seen.append("clear")
            now[0] += 5.0

    def run():
        seen.append("run")
        now[0] += 2.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch, "empty", lambda *a, **k: Cache())
    assert tuning.cold_seconds(run, 3, torch.device("cpu")) == 2.0
    assert seen == ["clear", "run"] * 3


def test_tuning_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="one device"):
        tune([])


def test_a_table_says_how_sure_its_times_are() -> None:
    path = tune([example()], M=[4], rounds=3)
    table = read_json(path)
    ((_, shapes),) = table["cases"].items()
    case = shapes["256x256"]
    assert case["us"]["dense"] <= case["median"]["dense"] <= case["p80"]["dense"]
    assert case["error"] < 1e-5
    assert {"torch", "cpp", "date"} <= set(table["meta"])
    assert table["family"] == tables.device_name("cpu").family


def test_dense_is_timed_with_and_without_the_compiled_kernel(monkeypatch) -> None:
    hidden = []

    def watched(x, packed, backend="auto"):
        hidden.append((cpp._hidden, packed is weight))
        return masked_linear(x, packed, backend=backend)

    weight = example()
    monkeypatch.setattr(tuning, "own_usable", lambda rows, *_: rows <= 16)
    monkeypatch.setattr(tuning, "masked_linear", watched)
    path = tune([weight], M=[16, 17], rounds=3)
    few, many = (shapes["256x256"]["us"] for shapes in read_json(path)["cases"].values())
    assert few.keys() - many.keys() == {tables.LIBRARY}  # for many rows both are the library's
    # Decided once without the kernel, for a twin; whatever else ran had it.
    assert hidden.count((True, False)) == 1
    assert (True, True) not in hidden
    assert tables.LIBRARY not in time_backends(weight, 16, rounds=1)
    assert tables.LIBRARY not in weight.plan(M=[16]).rows[0].microseconds
