"""Measured winners, one JSON file a device: those shipped, and the user's own in a cache."""

import functools
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from probcomp.errors import InputError
from probcomp.storage import read_json, write_json

if TYPE_CHECKING:
    from probcomp.kernels.dispatch import Problem

TABLE_VERSION = 1
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
NEAREST = 4.0  # a neighbour may differ in N K by this factor; beyond it the rule is safer
_SHIPPED = Path(__file__).parent / "tables"


class Entry(NamedTuple):
    """One measured case: the winner, microseconds by backend, and where it is from."""

    winner: str
    microseconds: dict[str, float]
    source: str


def density_bucket(density: float) -> float:
    """The nearest density of a table, by ratio."""
    return min(DENSITIES, key=lambda value: abs(math.log(value / max(density, 1e-6))))


def device_slug(device_type: str, index: int = 0) -> str:
    """A file name for a device: its model, and for a CPU the threads that PyTorch uses."""
    return _slug(device_type, index, torch.get_num_threads())


@functools.cache
def _slug(device_type: str, index: int, threads: int) -> str:
    if device_type == "cuda" and not torch.cuda.is_available():
        name = "no cuda device"  # planning for one elsewhere: no table, so the rule decides
    elif device_type == "cuda":
        name = torch.cuda.get_device_name(index)
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        name = f"{_cpu_model()} {capability} {threads} threads"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        import platform

        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    wanted = ("model name", "cpu family", "model")
    found = {key.strip(): value.strip() for key, value in fields.items()}
    return " ".join(found.get(key, "") for key in wanted)


def case_key(
    kind: str, dtype: torch.dtype, block: tuple[int, int], rows: int, density: float
) -> str:
    """Key of a case within a table, less the shape of the weight."""
    tall, wide = block
    return f"{kind}|{str(dtype).removeprefix('torch.')}|{tall}x{wide}|M{rows}|d{density}"


def user_folder() -> Path:
    """Where tables measured on this machine are kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "probcomp" / "tables"


def save_table(folder: Path, slug: str, meta: dict[str, Any], cases: dict[str, Any]) -> Path:
    """Write a table; ``cases`` maps `case_key` to ``{"NxK": {backend: microseconds}}``."""
    path = folder / f"{slug}.json"
    write_json(path, {"version": TABLE_VERSION, "device": slug, "meta": meta, "cases": cases})
    _read.cache_clear()
    return path


@functools.cache
def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict) or content.get("version") != TABLE_VERSION:
        raise InputError(f"{path} is not a table of version {TABLE_VERSION}; remove it, tune again")
    return content


def lookup(problem: "Problem") -> Entry | None:
    """The entry of a problem: its own shape, or the nearest shape measured; the user's table first.

    Every bucket of M is its own case, so a neighbour never lends a winner across batch sizes.
    """
    # Without frozen weights the derived copies that a table's winner relies on are not kept.
    if not problem.frozen:
        return None
    slug = device_slug(problem.device.type, problem.device.index or 0)
    key = case_key(
        problem.kind, problem.dtype, problem.block, problem.rows, density_bucket(problem.density)
    )
    size = problem.shape[0] * problem.shape[1]
    for folder, label in ((user_folder(), "measured here"), (_SHIPPED, "shipped")):
        shapes = _read(folder / f"{slug}.json").get("cases", {}).get(key, {})
        best, distance = None, math.log(NEAREST)
        for name, times in shapes.items():
            n, k = map(int, name.split("x"))
            apart = abs(math.log(n * k / size)) + (0.0 if (n, k) == problem.shape else 1e-6)
            if apart <= distance + 1e-6:
                best, distance = (name, times), apart
        if best is not None:
            name, times = best
            winner = min(times, key=times.get)
            return Entry(winner, times, f"{label}, {name}")
    return None
