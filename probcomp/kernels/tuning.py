"""Our own tuner: every backend timed in turn on this machine, dense among them, winners kept."""

import dataclasses
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from probcomp.errors import InputError
from probcomp.kernels import cpp, tables, tiles
from probcomp.kernels.dispatch import M_BUCKETS, Problem, candidates, forget_choices, m_bucket
from probcomp.kernels.fast_dense import own_usable
from probcomp.kernels.linear import masked_linear
from probcomp.kernels.packed import PackedWeight
from probcomp.storage import read_json

ROUNDS = 15
SLICE = 2e-3  # seconds of one timing: long against the clock, short against the load of others
CALLS = 200  # in one timing, at most
COLD, COLD_CALLS = 2**28, 20  # bytes: four times the cache of the largest GPU; calls of a timing
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def problem_of(packed: PackedWeight, rows: int, device: torch.device | None = None) -> Problem:
    """The dispatch problem of a packed weight that does not change."""
    block = tuple(getattr(packed, "block", (0, 0)))
    panel = getattr(packed, "panel", None)
    if panel is not None:
        block = (int(panel), int(packed.tensors()["val"].shape[1]))
    where = packed.device if device is None else device
    return Problem(
        packed.kind, where, packed.weight_dtype, packed.shape, (int(block[0]), int(block[1])),
        packed.density, rows, True,
    )  # fmt: skip


def time_backends(
    packed: PackedWeight, rows: int, *, rounds: int = ROUNDS, seed: int = 0
) -> dict[str, float]:
    """Microseconds of each backend that can run the weight at ``rows`` input rows.

    Backends take turns in every round, so a busy machine slows all of them alike, and the lower
    quartile over rounds is reported, since other processes only ever add time. On a CPU with one
    thread the clock is that thread's own; on a GPU the cache is cold. Inputs are random (zeros are
    faster on some hardware). Each result is checked against dense first.

    Raises:
        InputError: A backend's result differs from dense by more than its dtype allows.
    """
    spent, _ = _measure(packed, rows, rounds, seed)
    return {name: _lower_quartile(v) for name, v in spent.items() if name != tables.LIBRARY}


def _measure(
    packed: PackedWeight, rows: int, rounds: int, seed: int = 0
) -> tuple[dict[str, list[float]], float]:
    """Microseconds of each backend in each round, and the largest error against dense.

    Where dense is our own C++ product, also of dense without it, as `tables.LIBRARY`.
    """
    able = candidates(problem_of(packed, rows))
    cases = {name: (packed, name) for name in able}
    rng = torch.Generator(device="cpu").manual_seed(seed)
    x = torch.randn(rows, packed.shape[1], generator=rng).to(packed.device, packed.weight_dtype)
    with torch.inference_mode():
        expected = masked_linear(x, packed, backend="dense").double()
        if own_usable(rows, packed.shape[0] * packed.shape[1], packed.weight_dtype, packed.device):
            # Another user may have no compiler: dense is then another product.
            twin = dataclasses.replace(packed)  # decides for itself
            with cpp.hidden():
                masked_linear(x, twin, backend="dense")
            cases[tables.LIBRARY] = (twin, "dense")
        spent: dict[str, list[float]] = {name: [] for name in cases}
        repeats, worst = {}, 0.0
        for name, case in cases.items():
            got = masked_linear(x, case[0], backend=case[1]).double()
            error = float((got - expected).norm() / expected.norm().clamp_min(1e-30))
            if not error <= TOLERANCE[packed.weight_dtype]:
                raise InputError(f"backend {name!r} is off by {error:.1e} against dense: not timed")
            worst = max(worst, error)
            repeats[name] = _calls(_seconds(*case, x, 1), x.device)
        for _ in range(rounds):
            for name, case in cases.items():
                spent[name].append(1e6 * _seconds(*case, x, repeats[name]))
    return spent, worst


def _lower_quartile(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 4]


def _calls(once: float, device: torch.device) -> int:
    most = COLD_CALLS if device.type == "cuda" else CALLS
    return max(1, min(most, int(SLICE / max(once, 1e-7))))


def _seconds(packed: PackedWeight, backend: str, x: torch.Tensor, repeats: int) -> float:
    masked_linear(x, packed, backend=backend)  # the backend's own working set into the caches
    if x.device.type == "cuda":
        return cold_seconds(lambda: masked_linear(x, packed, backend=backend), repeats, x.device)
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(repeats):
        masked_linear(x, packed, backend=backend)
    return (clock() - start) / repeats


def cold_seconds(run: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Mean seconds that a run takes on a GPU whose L2 cache holds none of what it reads.

    A model's other layers empty the cache between two calls of one; a loop over one call would let
    a sparse weight, and not a dense one, stay in it. The clearing is not counted, and while it
    lasts the host gets ahead, so neither is the launch.
    """
    other = torch.empty(COLD, dtype=torch.int8, device=device)
    pairs = []
    for _ in range(repeats):
        other.zero_()
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        run()
        last.record()
        pairs.append((first, last))
    torch.cuda.synchronize()
    return sum(first.elapsed_time(last) for first, last in pairs) * 1e-3 / repeats


def time_tiles(
    packed: PackedWeight, rows: int, *, rounds: int = ROUNDS
) -> tuple[tiles.Launch, dict[str, float]] | None:
    """The launch of the Triton kernel of a weight, and microseconds of each configuration of it.

    Timed in turn, as backends are. One that does not fit the device, or is not as exact as the
    fixed one, is left out. None where no kernel with configurations runs the weight.
    """
    if "triton" not in candidates(problem_of(packed, rows)):
        return None
    rng = torch.Generator(device="cpu").manual_seed(0)
    x = torch.randn(rows, packed.shape[1], generator=rng).to(packed.device, packed.weight_dtype)
    with torch.inference_mode():
        with tiles.watched() as seen:
            masked_linear(x, packed, backend="triton")
        if not seen:
            return None
        launch, fixed = seen[0]
        with tiles.using(fixed):
            expected = masked_linear(x, packed, backend="triton").double()
        repeats: dict[tiles.Tile, int] = {}
        for tile in tiles.candidates(launch, fixed):
            with tiles.using(tile):
                try:
                    got = masked_linear(x, packed, backend="triton").double()
                except Exception:  # Triton's OutOfResources has no base that means only that
                    if tile == fixed:
                        raise
                    continue
                error = float((got - expected).norm() / expected.norm().clamp_min(1e-30))
                if error <= TOLERANCE[packed.weight_dtype]:
                    repeats[tile] = _calls(_seconds(packed, "triton", x, 1), x.device)
        spent: dict[tiles.Tile, list[float]] = {tile: [] for tile in repeats}
        for _ in range(rounds):
            for tile, count in repeats.items():
                with tiles.using(tile):
                    spent[tile].append(1e6 * _seconds(packed, "triton", x, count))
    named = {"/".join(map(str, tile)): _lower_quartile(v) for tile, v in spent.items()}
    return launch, {name: round(us, 2) for name, us in named.items()}


def _case(density: float, spent: dict[str, list[float]], error: float) -> dict[str, Any]:
    """What a table keeps: the lower quartile decides, its neighbours tell the noise."""
    return {
        "density": round(density, 4),
        "us": {name: round(_lower_quartile(values), 2) for name, values in spent.items()},
        "median": {name: round(statistics.median(v), 2) for name, v in spent.items()},
        "p80": {name: round(sorted(v)[(4 * len(v)) // 5], 2) for name, v in spent.items()},
        "error": float(f"{error:.1e}"),
    }


def tune(
    weights: Sequence[PackedWeight],
    M: Sequence[int] = (1, 16, 64, 256, 1024),
    *,
    folder: Path | None = None,
    rounds: int = ROUNDS,
) -> Path:
    """Time every backend for these weights and keep the times where `masked_linear` finds them.

    On a GPU the launch configurations of the Triton kernels come first, and the fastest one of each
    is what the backends' times are of.

    A table is merged into the one that exists. Build the C++ kernel first
    (`probcomp.kernels.cpp.build`) for it to be a candidate.

    Args:
        weights: Packed weights, all on one device; shapes, blocks and densities like the model's.
        M: Batch sizes, each the largest of its bucket; one beyond the last bucket stands for all
            larger ones.
        folder: Where the table goes; the user's cache folder by default.
        rounds: Timings of each backend.

    Returns:
        The path of the table.

    Raises:
        InputError: No weights, weights on several devices, or a backend that is wrong.
    """
    devices = {packed.device for packed in weights}
    if len(devices) != 1:
        raise InputError(f"tune needs weights on one device, got {len(devices)} devices")
    device = devices.pop()
    folder = tables.user_folder() if folder is None else folder
    named = tables.device_name(device.type, device.index or 0)
    path = folder / f"{named.slug}.json"
    before = read_json(path) if path.is_file() else {}
    cases = before["cases"] if before.get("version") == tables.TABLE_VERSION else {}
    shapes = before["tiles"] if cases and "tiles" in before else {}
    for packed in weights:
        for rows in M:
            if rows < 1:
                raise InputError(f"M must be positive, got {rows}")
            timed = time_tiles(packed, rows, rounds=rounds)
            if timed is not None:
                launch, us = timed
                named_shape = "x".join(map(str, launch.shape))
                shapes.setdefault(launch.key(), {})[named_shape] = {"us": us}
                fastest = tiles.Tile(*map(int, min(us, key=us.__getitem__).split("/")))
            problem = problem_of(packed, m_bucket(rows))
            bucket = tables.density_bucket(problem.density)
            key = tables.case_key(problem.kind, problem.dtype, problem.block, problem.rows, bucket)
            with nullcontext() if timed is None else tiles.using(fastest):
                case = _case(packed.density, *_measure(packed, rows, rounds))
            cases.setdefault(key, {})["x".join(map(str, packed.shape))] = case
    meta = {
        "torch": torch.__version__,
        "cpp": cpp.instruction_set(),
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
        "buckets": list(M_BUCKETS),
    }
    written = tables.save_table(folder, named, meta, cases, shapes)
    forget_choices()
    tiles.forget_tiles()
    return written
