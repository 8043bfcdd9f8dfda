"""What a run table must hold before any model is fitted to it."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probcomp.errors import InputError
from probcomp.regime.knobs import KNOWN, known_name

if TYPE_CHECKING:
    from probcomp.regime.knobs import Knob
    from probcomp.regime.table import RunTable

LEAST_CELLS = 5
"""Four corners and a centre: below that the two surfaces are not determined at all."""

SIGN_SLACK = 0.02
"""Connectivity above this (a fraction) in every run is taken for a barrier with its sign lost."""

CONFOUNDED = 0.85
"""Share of the variance of the load's ranks that knobs may explain before they pass for one."""

SLACK = 1e-9
"""Share by which rounding may put a value outside the runs."""

TURNED = 0.01
"""Chance of a rank correlation over cells below which a knob or a similarity looks turned round."""

OPPOSED = -0.5
"""Rank correlation of similarity and load below which the similarity passes for a distance: in
fourteen collections of runs it is 0.38 to 0.94."""


def check_enough(table: "RunTable") -> None:
    """Refuse a table from which no direction can be learnt."""
    loads = np.unique(table.load)
    if len(loads) < 2:
        raise InputError(
            f"one {table.load_name} only ({loads[0]:g}); runs at two or more are needed, since the "
            "regimes are told apart by how the effect of the knob changes with it."
        )
    for position, knob in enumerate(table.knobs):
        if np.ptp(table.settings[:, position]) == 0:
            raise InputError(
                f"knob {knob.name!r} is constant at {table.settings[0, position]:g}; "
                "runs at two or more settings are needed."
            )
    cells = len(np.unique(table.cells))
    if cells < LEAST_CELLS:
        raise InputError(
            f"{cells} distinct pilot{'s' * (cells != 1)}; at least {LEAST_CELLS} are needed "
            f"(two settings x two values of {table.load_name} and one between), 9 are advised."
        )


def check_inside(name: str, values: ArrayLike, runs: NDArray[np.float64]) -> None:
    """Refuse values of a knob or a load outside those of the runs: a guess there has no ground.

    Raises:
        InputError: names the first such value, and what a density may have been meant for.
    """
    low, high = float(runs.min()), float(runs.max())
    for value in np.atleast_1d(np.asarray(values, float)):
        if low * (1 - SLACK) <= value <= high * (1 + SLACK):
            continue
        meant = ""
        if name == "density":
            shares = {f"A sparsity of {value:g}": 1 - value, f"{value:g} per cent": value / 100}
            meant = next(
                (f" {w} is density {x:g}." for w, x in shares.items() if low <= x <= high), ""
            )
        raise InputError(
            f"{name} {value:g} lies outside the runs ({low:g} to {high:g}); add runs there, or "
            f"ask within.{meant}"
        )


def check_apart(table: "RunTable") -> tuple[str, ...]:
    """Refuse runs whose knobs follow the load: what is due to which could not be told.

    Few runs may follow it by chance: the share that counts is the adjusted one,
    ``1 - (1 - R^2) (n - 1) / (n - k - 1)`` with n cells and k knobs. What it spares is noted.

    Raises:
        InputError: where the ranks of the knobs over cells explain 85 % of the variance of the
            load's.
    """
    from scipy.stats import rankdata

    first = np.unique(table.cells, return_index=True)[1]
    ranks = np.column_stack([rankdata(v[first]) for v in (table.load, *table.settings.T)])
    ranks = ranks - ranks.mean(0)
    load, knobs = ranks[:, 0], ranks[:, 1:]
    left = load - knobs @ np.linalg.lstsq(knobs, load, rcond=None)[0]
    spare = len(first) - len(ranks[0])  # n - k - 1
    if left @ left >= (1 - CONFOUNDED) * (load @ load) or spare <= len(ranks[0]):
        return ()
    names = " and ".join(repr(knob.name) for knob in table.knobs)
    said = f"{names} and {table.load_name} change together in these runs, so their effects"
    more = f"add runs at other settings for the same {table.load_name}."
    if left @ left * (len(first) - 1) < (1 - CONFOUNDED) * (load @ load) * spare:
        raise InputError(f"{said} cannot be told apart; {more}")
    return (f"{said} are hard to tell apart; {more}",)


def check_directions(table: "RunTable") -> tuple[str, ...]:
    """Refuse a load, a barrier or a similarity with the wrong sign; note a knob turned round.

    Errors that are all the same are noted, too.

    Raises:
        InputError: when the error falls as the network loses weights, barriers are positive, or
            outputs grow unlike while error and barriers fall.
    """
    worse, pairs = _denser_is_worse(table)
    if pairs >= 4 and worse > 0.75:
        raise InputError(
            f"the error rises with {table.load_name} in {worse:.0%} of {pairs} comparisons; is the "
            "column a sparsity? Name it 'sparsity' (share removed) or 'density' (share kept)."
        )
    if table.connectivity.min() >= 0 and table.connectivity.max() > SIGN_SLACK:
        raise InputError(
            f"mode connectivity is positive in every run (up to {table.connectivity.max():.3g}); a "
            "barrier must be negative: give (error at the ends) minus (error on the path)."
        )
    from scipy.stats import spearmanr

    notes = []
    if np.ptp(table.error) == 0:
        notes.append(
            f"the error is {table.error[0]:.4g} in every run: no setting can be told from another "
            "by it, and keep is all that can be said; measure it on more samples."
        )
    # One value a cell: repeated runs are no further evidence on the direction of a knob.
    _, first = np.unique(table.cells, return_index=True)
    count = np.bincount(table.cells)
    error, barrier, alike = (
        np.bincount(table.cells, values) / count
        for values in (table.error, np.minimum(table.connectivity, 0), table.similarity)
    )
    if all(np.ptp(values) > 0 for values in (error, barrier, alike)):
        loads = table.load[first]
        rank, chance = spearmanr(loads, alike)
        better, connected = spearmanr(loads, error)[0] < 0, spearmanr(loads, barrier)[0] > 0
        if rank < OPPOSED and chance < TURNED and better and connected:
            raise InputError(
                f"the similarity falls as {table.load_name} grows (rank correlation {rank:.2f} "
                f"over {len(first)} settings) while error and barriers fall, too; is the column a "
                "distance? Give cka = 1 - distance."
            )
    for position, knob in enumerate(table.knobs):
        hot = knob.coordinate(table.settings[first, position])
        if np.ptp(barrier) > 0:
            rank, chance = spearmanr(hot, barrier)
            if rank < 0 and chance < TURNED:
                notes.append(
                    f"barriers grow as {knob.name} gets hotter ({knob.hotter}): {_why(knob)}"
                )
    return tuple(notes)


def _why(knob: "Knob") -> str:
    """What may be behind barriers that grow with heat; the direction only where it was stated."""
    if known_name(knob.name) in KNOWN:
        return "the hottest runs may end before they settle; the model expects heat to connect."
    return "check its direction, or the runs are all too hot to be connected."


def _denser_is_worse(table: "RunTable") -> tuple[float, int]:
    """Share of pairs of runs at equal knobs, with different loads, where the denser is worse."""
    same = (table.settings[:, None] == table.settings[None]).all(-1)
    denser = table.load[:, None] > table.load[None]
    pairs = same & denser
    if pairs.sum() < 4:  # no two runs share their knobs: compare all
        pairs = denser
    worse = (table.error[:, None] > table.error[None]) & pairs
    return float(worse.sum() / max(pairs.sum(), 1)), int(pairs.sum())
