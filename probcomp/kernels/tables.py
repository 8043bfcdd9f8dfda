"""Measured winners, one JSON file a device: those shipped, and the user's own in a cache.

Where a choice is looked up: the user's table for this device, the shipped one for it, then a table
of a relative (the same architecture, and one thread or several as here), of which only a clear win
is believed. Where none has the case, the caller's rule decides.
"""

import functools
import math
import os
import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from probcomp.errors import InputError
from probcomp.kernels import cpp
from probcomp.storage import read_json, write_json

if TYPE_CHECKING:
    from probcomp.kernels.dispatch import Problem

TABLE_VERSION = 2
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
NEAREST = 4.0  # a neighbour may differ in N K by this factor; beyond it the rule is safer
LIBRARY = "dense/library"  # in a table: dense as it runs where the C++ kernel is not built
SURE = 1.05  # times as fast as dense that a winner must be: less is within the noise of timings
CLEAR = 1.25  # the same for another shape, or on a relative
_SHIPPED = Path(__file__).parent / "tables"


class Entry(NamedTuple):
    """One measured case: the winner, microseconds by backend, where it is from, and its shape."""

    winner: str
    microseconds: dict[str, float]
    source: str
    shape: tuple[int, int]


class Device(NamedTuple):
    """A device as tables name it."""

    slug: str  # its model, for a CPU with the threads that PyTorch uses
    family: str  # its architecture, for a CPU with one thread or several


def density_bucket(density: float) -> float:
    """The nearest density of a table, by ratio."""
    return min(DENSITIES, key=lambda value: abs(math.log(value / max(density, 1e-6))))


def device_name(device_type: str, index: int = 0) -> Device:
    """The names of a device of this machine, by which its table is found."""
    return _name(device_type, index, torch.get_num_threads())


@functools.cache
def _name(device_type: str, index: int, threads: int) -> Device:
    if device_type == "cuda" and not torch.cuda.is_available():
        name = family = "no cuda device"  # planning for one elsewhere: the rule decides
    elif device_type == "cuda":
        # A kernel of another minor release of the compiler is another kernel.
        compiler = f"triton {_triton()}"
        properties: Any = torch.cuda.get_device_properties(index)
        arch = getattr(properties, "gcnArchName", "") or f"sm_{properties.major}{properties.minor}"
        name, family = f"{torch.cuda.get_device_name(index)} {compiler}", f"{arch} {compiler}"
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        cpu = _cpu()
        name = f"{cpu['model name']} {cpu['cpu family']} {cpu['model']} {capability} {threads}"
        name += " thread" if threads == 1 else " threads"
        many = "one thread" if threads == 1 else "several threads"
        family = f"{cpu['vendor_id']} {cpu['cpu family']} {capability} {many}"
    return Device(_slug(name), _slug(family))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _triton() -> str:
    from importlib import metadata

    try:
        return ".".join(metadata.version("triton").split(".")[:2])
    except metadata.PackageNotFoundError:
        return "none"


def _cpu() -> dict[str, str]:
    wanted = ("model name", "vendor_id", "cpu family", "model")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        import platform

        name = platform.processor() or platform.machine()
        return {"model name": name, "vendor_id": name, "cpu family": "", "model": ""}
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    found = {key.strip(): value.strip() for key, value in fields.items()}
    return {key: found.get(key, "") for key in wanted}


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


def save_table(
    folder: Path, device: Device, meta: dict[str, Any], cases: dict[str, dict[str, Any]],
    tiles: dict[str, dict[str, Any]] | None = None,
) -> Path:  # fmt: skip
    """Write a table; ``cases`` maps `case_key` to ``{"NxK": {"us": {backend: microseconds}}}``.

    A case's ``"density"`` is the stored one that was timed; without it, that of its key.
    ``tiles`` does so for a kernel's launch configurations, named ``"rows/warps/stages"``.
    """
    path = folder / f"{device.slug}.json"
    content = {"version": TABLE_VERSION, **device._asdict(), "meta": meta, "cases": cases}
    content |= {"tiles": tiles} if tiles else {}
    write_json(path, content)
    forget_tables()
    return path


def forget_tables() -> None:
    """Read the files again at the next look-up."""
    _read.cache_clear()
    _relatives.cache_clear()


@functools.cache
def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except InputError:
        content = None
    if isinstance(content, dict) and content.get("version") == TABLE_VERSION:
        return content
    # A stale cache must not stop a forward pass; kept results are warned about once.
    warnings.warn(
        f"{path} is no table of version {TABLE_VERSION} and is not used; remove it and tune again",
        stacklevel=2,
    )
    return {}


@functools.cache
def _relatives(folder: Path, device: Device) -> tuple[dict[str, Any], ...]:
    """Tables of other devices of a family, in the order of their names."""
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    tables = [_read(path) for path in paths if path.stem != device.slug]
    return tuple(table for table in tables if table.get("family") == device.family)


def lookup(problem: "Problem", able: Collection[str] | None = None) -> Entry | None:
    """The entry of a problem: its own shape, or the nearest one measured.

    Every bucket of M is its own case, so a neighbour never lends a winner across batch sizes.

    Args:
        problem: With ``rows`` a bucket.
        able: Backends that can run here; the winner is one of them. All by default.
    """
    # Without frozen weights the derived copies that a table's winner relies on are not kept.
    if not problem.frozen:
        return None
    device = device_name(problem.device.type, problem.device.index or 0)
    folders = ((user_folder(), "measured here"), (_SHIPPED, "shipped"))
    for folder, label in folders:
        entry = _entry(_read(folder / f"{device.slug}.json"), problem, able, label)
        if entry is not None:
            return entry
    for folder, _ in folders:
        for table in _relatives(folder, device):
            entry = _entry(table, problem, able, f"measured on {table['slug']}")
            if entry is not None:
                return _clear(entry)
    return None


def _clear(entry: Entry) -> Entry:
    """The entry of a relative, with dense as the winner unless another is far ahead."""
    wins = entry.microseconds["dense"] >= CLEAR * entry.microseconds[entry.winner]
    return entry if wins else entry._replace(winner="dense")


def _entry(
    table: dict[str, Any], problem: "Problem", able: Collection[str] | None, label: str
) -> Entry | None:
    bucket = density_bucket(problem.density)
    key = case_key(problem.kind, problem.dtype, problem.block, problem.rows, bucket)
    shapes = table.get("cases", {}).get(key, {})
    best = _nearest(shapes, problem.shape)
    if best is None:
        return None
    times = _of_here(shapes[best]["us"])
    here = [name for name in times if able is None or name in able]
    if "dense" not in here:
        return None
    winner = min(here, key=times.__getitem__)
    n, k = map(int, best.split("x"))
    # Denser than what was measured takes longer by as much; a neighbour's shape is a guess.
    needed = SURE if problem.shape == (n, k) else CLEAR
    more = max(1.0, problem.density / shapes[best].get("density", bucket))
    sure = times["dense"] >= needed * more * times[winner]
    return Entry(winner if sure else "dense", times, f"{label}, {best}", (n, k))


def _of_here(times: dict[str, float]) -> dict[str, float]:
    """Times by backend: dense's with or without our own product, as it would run here."""
    here = dict(times)
    library = here.pop(LIBRARY, None)
    return here if library is None or cpp.available() else here | {"dense": library}


def tile_times(device: Device, key: str, shape: tuple[int, int]) -> dict[str, float]:
    """Microseconds of a kernel's configurations, measured on this very device; empty if none."""
    for folder in (user_folder(), _SHIPPED):
        shapes = _read(folder / f"{device.slug}.json").get("tiles", {}).get(key, {})
        best = _nearest(shapes, shape)
        if best is not None:
            return dict(shapes[best]["us"])
    return {}


def _nearest(shapes: Collection[str], shape: tuple[int, int]) -> str | None:
    """The shape itself, or the one nearest in size; beyond `NEAREST` none."""
    size = max(shape[0] * shape[1], 1)
    best, distance = None, math.log(NEAREST)
    for name in shapes:
        n, k = map(int, name.split("x"))
        apart = abs(math.log(n * k / size)) + (0.0 if (n, k) == shape else 1e-6)
        if apart <= distance + 1e-6:
            best, distance = name, apart
    return best
