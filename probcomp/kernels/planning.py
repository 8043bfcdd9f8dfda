"""`plan`: which backend a packed weight would run on at each batch size, and why."""

import dataclasses
from collections.abc import Sequence

import torch

from probcomp.errors import InputError
from probcomp.kernels import tables
from probcomp.kernels.dispatch import break_even, candidates, choose, m_bucket
from probcomp.kernels.packed import PackedWeight
from probcomp.kernels.tuning import problem_of, time_backends


@dataclasses.dataclass(frozen=True)
class PlanRow:
    """One batch size. Times are microseconds by backend; empty where nothing was measured.

    ``expected`` is the gain over dense that the rule expects: the break-even density of the backend
    over the density of the weight, since time is about proportional to what is stored.
    """

    rows: int
    backend: str
    reason: str
    microseconds: dict[str, float]
    expected: float

    @property
    def speedup(self) -> float | None:
        """Time of dense over the chosen backend's, or None without measurements."""
        mine, dense = self.microseconds.get(self.backend), self.microseconds.get("dense")
        return None if mine is None or dense is None else dense / mine


@dataclasses.dataclass(frozen=True)
class Plan:
    """The choices for a packed weight, and what it stores."""

    format: str
    shape: tuple[int, int]
    device: str
    density: float
    fill: float
    nbytes: int
    rows: tuple[PlanRow, ...]

    def __str__(self) -> str:
        n, k = self.shape
        lines = [
            f"{self.format} {n}x{k} on {self.device}: density {self.density:.3f}, "
            f"fill {self.fill:.3f}, {self.nbytes / 2**20:.2f} MiB"
        ]
        for row in self.rows:
            guess = f"about {row.expected:.1f}x"
            gain = guess if row.speedup is None else f"{row.speedup:.2f}x dense"
            lines.append(f"  M={row.rows:<6} {row.backend:<8} {gain:<14} {row.reason}")
        return "\n".join(lines)


def plan(
    packed: PackedWeight,
    M: Sequence[int] = (1, 16, 128, 2048),
    *,
    device: torch.device | str | None = None,
    measure: bool = False,
) -> Plan:
    """What `masked_linear` would run at each batch size.

    Args:
        packed: The weight.
        M: Numbers of input rows.
        device: Plan for this device instead of the weight's own (by table or rule).
        measure: Time every backend here and now, and say which is fastest; the choice of
            `masked_linear` changes only through `probcomp.kernels.tuning.tune`.

    Raises:
        InputError: ``M`` is empty or not positive, no such device, or ``measure`` for another one.
    """
    try:
        where = packed.device if device is None else torch.device(device)
    except RuntimeError as error:
        raise InputError(f"unknown device {device!r}") from error
    if not isinstance(M, Sequence) or not M or not all(isinstance(m, int) and m > 0 for m in M):
        raise InputError(f"M must be positive batch sizes in a list, got {M!r}")
    if measure and where.type != packed.device.type:
        raise InputError(f"cannot measure on {where}: the weight is on {packed.device}")
    found = []
    for rows in M:
        problem = problem_of(packed, rows, where)
        choice = choose(problem)
        times: dict[str, float] = {}
        bucketed = problem._replace(rows=m_bucket(rows))
        entry = tables.lookup(bucketed, candidates(problem))
        if measure:
            times = time_backends(packed, rows)
            best = min(times, key=lambda name: times[name])
            note = "fastest here" if best == choice.backend else f"{best} is fastest here"
            choice = choice._replace(reason=f"{choice.reason}; {note}")
        elif entry is not None:
            times = entry.microseconds
        limit = break_even(bucketed, choice.backend, torch.get_num_threads())
        expected = limit / max(packed.density, 1e-3) if choice.backend != "dense" else 1.0
        found.append(PlanRow(rows, choice.backend, choice.reason, times, max(1.0, expected)))
    return Plan(
        packed.kind, packed.shape, str(where), packed.density, packed.fill, packed.nbytes,
        tuple(found),
    )  # fmt: skip
