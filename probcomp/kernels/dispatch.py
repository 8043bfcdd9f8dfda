"""Which backend multiplies: a request, the environment, a measured table, or a rule; dense always.

The rules come from measured ratios against the best dense product (CPU) and from a roofline (GPU,
not yet measured); a table made by `probcomp.kernels.tuning` takes their place on its device.
"""

import functools
import logging
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch

from probcomp.errors import InputError, unknown
from probcomp.kernels import cpp, ready, tables

VARIABLE = "PROBCOMP_KERNEL_BACKEND"
BACKENDS = ("auto", "dense", "gather", "panels", "cpp", "triton")
M_BUCKETS = (1, 16, 64, 256, 1024)
TRITON_KINDS = ("blocks", "int8", "runs", "nm")
SIDES = (16, 32, 64, 128)  # of a block that a Triton kernel takes
# Smallest height of a block: break-even density at one row, on one thread and on several; up to 64
# rows on one thread; else.
PANELS = {
    0: (0.0, 0.0, 0.0, 0.0), 16: (0.35, 0.15, 0.3, 0.1), 32: (0.5, 0.5, 0.4, 0.2),
    64: (0.55, 0.45, 0.4, 0.26), 128: (0.5, 0.5, 0.5, 0.4),
}  # fmt: skip
# The same in 16 bits, where the vendor's dense product gains and its batched one does not: for more
# rows than 16 only. Measured in bfloat16 on one thread, for 260 odd shapes.
PANELS_LOW = {0: 0.0, 32: 0.2, 64: 0.25}
SMALL = 2**19  # weights of a layer below which a few calls of the vendor's library cost too much
# Multiplications of the dense product below which our own call costs more than it can save, for one
# row (5 microseconds) and for more, where the vendor's product is faster for each.
CALL_ONE, CALL_MORE = 2**18, 2**19
_log = logging.getLogger("probcomp.kernels")


class Problem(NamedTuple):
    """What a choice depends on. ``rows`` is the number of input rows, M."""

    kind: str
    device: torch.device
    dtype: torch.dtype
    shape: tuple[int, int]
    block: tuple[int, int]
    density: float
    rows: int
    frozen: bool  # the weight does not change, so copies derived from it may be kept


class Choice(NamedTuple):
    """A backend, and the reason in words."""

    backend: str
    reason: str


def m_bucket(rows: int) -> int:
    """The bucket of a batch: the largest M it stands for; above 1024 the bucket is 0."""
    return next((top for top in M_BUCKETS if rows <= top), 0)


def candidates(problem: Problem) -> tuple[str, ...]:
    """Backends that can run the problem; dense is always the first."""
    found = ["dense"]
    if problem.kind in ("blocks", "int8", "runs"):
        found.append("gather")
    if problem.kind == "blocks" and problem.frozen and problem.device.type == "cpu":
        found.append("panels")
        if cpp.usable(problem.block, problem.dtype, problem.device):
            found.append("cpp")
    # Interpreted Triton kernels run on CPU tensors, for tests; no rule or table chooses them.
    on_gpu = problem.device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    fits = problem.kind == "nm" or triton_fits(problem.block)
    if on_gpu and fits and problem.kind in TRITON_KINDS and triton_installed():
        found.append("triton")
    return tuple(found)


def triton_fits(block: Sequence[int]) -> bool:
    """Whether the Triton kernels take blocks of this shape: matrix units do, and registers."""
    return all(side in SIDES for side in block)


def on_triton(x: torch.Tensor) -> bool:
    """Whether a kernel for GPUs may be chosen for this tensor."""
    return x.is_cuda and triton_installed()


@functools.cache
def triton_installed() -> bool:
    """Whether Triton can be imported, without importing it."""
    import importlib.util

    return importlib.util.find_spec("triton") is not None


def choose(problem: Problem, requested: str = "auto") -> Choice:
    """The backend for a problem: argument, then environment, then table, then rule.

    Raises:
        InputError: The requested backend does not exist or cannot run this problem.
    """
    name = requested if requested != "auto" else os.environ.get(VARIABLE, "auto")
    if name not in BACKENDS:
        raise unknown("kernel backend", name, BACKENDS)
    if name != "auto":
        able = candidates(problem)
        if name not in able:
            raise InputError(
                f"backend {name!r} cannot run {problem.kind} weights of {problem.dtype} on "
                f"{problem.device.type}; it can run: {', '.join(able)}"
            )
        return Choice(name, "requested" if requested != "auto" else f"{VARIABLE} is set")
    bucketed = problem._replace(rows=m_bucket(problem.rows))
    deterministic = torch.are_deterministic_algorithms_enabled()
    return _decide(bucketed, deterministic, torch.get_num_threads())


def forget_choices() -> None:
    """Forget choices made, after a build or a new table."""
    _decide.cache_clear()
    ready.forget_calls()


@functools.lru_cache(maxsize=4096)
def _decide(problem: Problem, deterministic: bool, threads: int) -> Choice:
    able = candidates(problem)
    if problem.device.type == "cpu":
        able = tuple(name for name in able if name != "triton")
    choice = None
    # Another winner is another order of summation: with deterministic algorithms asked for, only
    # the fixed rule decides.
    if not deterministic:
        entry = tables.lookup(problem, able)
        if entry is not None:
            choice = Choice(entry.winner, f"table: {entry.source}")
            # A larger neighbour does not know what a call costs.
            if problem.shape != entry.shape and not pays_its_call(problem, entry.winner):
                choice = Choice("dense", f"{choice.reason}, but too small for {entry.winner}")
    choice = choice or _rule(problem, able, threads)
    shape, rows = "x".join(map(str, problem.shape)), problem.rows or "over 1024"
    _log.info(
        "%s %s at density %.2f, up to %s rows on %s: %s (%s)",
        *(problem.kind, shape, problem.density, rows, problem.device.type, *choice),
    )
    return choice


def break_even(problem: Problem, backend: str, threads: int = 2) -> float:
    """The density below which a backend beats the best dense product, by rule.

    CPU: float32 of 768-3072-768 and bfloat16, measured; float16 is left to dense. GPU: from copy
    and matrix ceilings, 4096 x 14336.
    """
    tall, rows = problem.block[0], problem.rows or 2048
    if problem.kind == "nm":
        # Each row of x streams the weight again, and a matrix unit would have to expand it.
        return 0.6 if rows <= 1 else 0.0
    if not pays_its_call(problem, backend):
        return 0.0
    if backend == "cpp":
        return 0.75 if rows <= 16 else 0.7
    if problem.device.type == "cpu" and problem.dtype.itemsize == 2:
        able = backend == "panels" and problem.dtype == torch.bfloat16 and rows > 16
        return PANELS_LOW[max(t for t in PANELS_LOW if t <= tall)] if able else 0.0
    if backend == "panels":
        one, one_of_several, few, most = PANELS[max(t for t in PANELS if t <= tall)]
        if rows <= 1:
            return one if threads == 1 else one_of_several
        return few if threads == 1 and rows <= 64 else most
    if backend == "gather":
        if problem.device.type != "cpu" or tall < 32:
            return 0.0
        if not problem.frozen:  # against a dense weight that is expanded in each call
            return 0.9 if rows <= 16 else 0.2 if rows <= 256 else 0.12
        # Int8 blocks are widened first, in each call.
        return 0.2 if 1 < rows <= 16 and problem.kind != "int8" else 0.12
    if rows <= 1:
        return 0.7
    by_height = {16: (0.5, 0.12, 0.09), 32: (0.6, 0.22, 0.17), 64: (0.6, 0.37, 0.29)}
    small, middle, large = by_height.get(tall, (0.6, 0.5, 0.44) if tall >= 128 else (0.4, 0.1, 0.0))
    return small if rows <= 16 else middle if rows <= 256 else large


def pays_its_call(problem: Problem, backend: str) -> bool:
    """Whether the dense product takes long enough for the calls of a backend on a CPU to pay."""
    size, rows = problem.shape[0] * problem.shape[1], problem.rows or 2048
    if backend == "cpp":
        return rows * size >= (CALL_ONE if rows <= 1 else CALL_MORE)
    return backend not in ("panels", "gather") or size >= SMALL


def _rule(problem: Problem, able: tuple[str, ...], threads: int) -> Choice:
    for backend in ("triton", "cpp", "panels", "gather"):
        if backend in able:
            limit = break_even(problem, backend, threads)
            if problem.density < limit:
                reason = f"density {problem.density:.2f} is under its break-even, {limit:.2f}"
                return Choice(backend, reason)
    others = [
        f"{name} {break_even(problem, name, threads):.2f}" for name in able if name != "dense"
    ]
    if not others:
        return Choice("dense", "the only backend for this weight here")
    return Choice(
        "dense", f"density {problem.density:.2f} is over the break-even of {', '.join(others)}"
    )
