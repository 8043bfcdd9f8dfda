"""A real sweep on digits: its pilots, and advice from nine of them judged on a reference grid."""

import csv
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from _regime_campaign import Sweep, by_process, campaign, least_measured, nearest
from _regime_fits import Fits, clear  # these lie beside this file
from _regime_grid import strata
from _regime_reference import FIRST, Replicates, read_reference
from _regime_regret import Reference
from _regime_told import Surface, told_regret

from probcomp.errors import InputError
from probcomp.regime.costs import Run
from probcomp.regime.fit import RegimeModel
from probcomp.regime.planner import MOST_SEEDS
from probcomp.regime.records import write_table
from probcomp.regime.store import Record, Store
from probcomp.regime.sweep import grid_configs, run_pilots
from probcomp.regime.table import RunTable, read_runs
from probcomp.regime.tasks import load_task

RESULTS = Path(__file__).parent / "results"
DIGITS = RESULTS / "regime_digits_runs.csv"
Chosen = list[tuple[int, int, int]]
"""(design, load, level) of every piece of advice."""

RECORDED = ("campaign", "nine", "grid", "grid_ten", "sweep")
ADVISERS = (*RECORDED, "nearest", "campaign_five")
"""Those that fit a model, the last two on request."""

OWN = 4
"""Dense seeds of a pilot of the digits task (its default)."""

MANY = 10
"""Dense seeds of a larger sweep."""

TRIED = 18
"""The first dense seeds: campaigns are judged on the others.

Campaigns were judged on the first eighteen before, and tried in simulations that drew pilots from
the reference, which also judges; the model was formed with the first twelve in view. Nobody had
looked at the others when campaigns were settled, but the form of the model changed once after they
had judged. The surface, whose 42 cells are always the same, is not fresh."""

APART = 2
"""Each campaign begins with so many dense seeds of its own; its later ones are others' first."""


def sweep(store: Path, jobs: int | None, seeds: Sequence[int]) -> dict[str, object]:
    """Every level and density of the digits task, two retrain seeds; new dense seeds are added.

    Rows of other dense seeds that the table holds already are kept.
    """
    check_seeds(seeds)
    records = []
    for seed in seeds:
        configs = [replace(c, dense_seed=seed) for c in grid_configs("digits") if c.dense_seed == 0]
        records += run_pilots(configs, Store(store), jobs=jobs)
    rows = add_to_table(records, "epochs", DIGITS)
    seconds = sum(run["wall_s"] for record in records for run in record["runs"])
    return {
        "dense_seeds": list(seeds),
        "pilots": len(records),
        "rows_of_the_table": rows,
        "table": DIGITS.name,
        "retraining_seconds": seconds,
    }


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse dense seeds of the reference for pilots."""
    if any(seed >= FIRST for seed in seeds):
        raise InputError(f"dense seeds from {FIRST} on are the reference's.")


def add_to_table(records: Sequence[Record], knob: str, path: Path) -> int:
    """Add rows of pilots to a table, each in place of the one of its cell and seed; how many."""
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / "new.csv"
        write_table(records, knob, new)
        texts = [at.read_text() for at in (path, new) if at.is_file()]
    header, *rows = csv.reader(line for text in texts for line in text.splitlines())
    rows = [row for row in rows if row != header]
    order = ("dense_seed", "density", knob)
    keys = [tuple(float(row[header.index(n)]) for n in order) for row in rows]
    latest = dict(zip(keys, rows))  # a seed run again takes its own place
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([header, *(latest[key] for key in sorted(latest))])
    return len(latest)


@dataclass
class Judged:
    """What advisers said, and how that meets the reference.

    Attributes:
        grid, reference: Whose replicates judge; the same with what follows from them.
        chosen: By adviser, the level at each (design, load).
        checks: By adviser, how the model's expected errors meet the reference's means.
        rows: One a fit, for the record.
    """

    grid: Replicates
    reference: Reference
    fits: Fits
    chosen: dict[str, Chosen] = field(default_factory=dict)
    checks: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    rows: list[dict[str, object]] = field(default_factory=list)

    def fit(self, what: str, design: int, pilots: RunTable, only: float | None = None) -> None:
        """Fit, advise at every density in range or at one, and count what was said."""
        loads, levels = self.grid.loads, self.grid.levels
        name = f"{what}{design}" if only is None else f"{what}{design}_{only:g}"
        model, seconds = self.fits.fit(pilots, name, design)
        near = np.flatnonzero((levels >= pilots.settings.min()) & (levels <= pilots.settings.max()))
        asked = (loads >= pilots.load.min()) & (loads <= pilots.load.max())
        said = []
        for k in np.flatnonzero(asked if only is None else np.isclose(loads, only)):
            level, check = advised(model, levels[near], float(loads[k]), self.grid.errors[k][near])
            said.append((float(loads[k]), float(levels[near[level]])))
            self.checks.setdefault(what, []).append({"load": float(loads[k]), **check})
            self.choose(what, design, int(k), int(near[level]))
        row: dict[str, object] = {"from": what, "seed": design, "cpu_seconds": seconds}
        row |= {"runs": len(pilots), "fit": str(model.convergence), "best_epochs": said}
        print(row, file=sys.stderr)
        self.rows.append(row)
        clear()

    def choose(self, what: str, design: int, load: int, level: int) -> None:
        """Count one piece of advice."""
        self.chosen.setdefault(what, []).append((design, load, level))

    def summary(self, what: str, load: int | None = None) -> dict[str, object]:
        """Regret and calibration of an adviser, at a load or at all."""
        some = [one for one in self.chosen[what] if load is None or one[1] == load]
        at = None if load is None else float(self.grid.loads[load])
        return self.reference.summary(some) | calibration(self.checks.get(what, []), at)


def digits(
    count: int, start: int, fits: Fits, only: Sequence[str] = RECORDED, campaigns: int = 4
) -> dict[str, object]:
    """Advice from the sweep, judged on a reference grid: from nine pilots up to all of them.

    Estimated is the mean, over designs and densities, of the error at the advised level less that
    at the best level, both averaged over dense and retraining seeds. The reference has seeds of its
    own, which no pilot shares. The rule of the advice: the level of least expected error.

    ``campaign``: what ``probcomp advise --task digits --pilots 9`` does, at each density by itself,
    9 ``OWN`` runs for each, see `TRIED` for which seeds (``nine``: as many for all densities at
    once). For as many runs: ``nearest``, every level at that density and two cells beside it;
    ``at_density``, the least measured error of as many runs there, with no model;
    ``at_density_half``, of half as many. ``campaign_five``: campaigns of five pilots.
    ``campaign_process``: the advice of the process that planned the campaign, which knows no
    regimes; so for the others, of which those that are not in ``only`` have no other advice.
    ``campaigns`` says how many designs for each density, of seeds of their own; ``only`` names
    those that fit a model and are wanted.

    ``nine``: nine cells of ``OWN`` dense seeds spread over the whole grid, for all densities at
    once, ``count`` designs. ``grid`` and ``grid_ten``: every cell of ``OWN`` or ``MANY`` seeds,
    each seed once. ``sweep``: every cell and seed, one design. ``own_grid`` takes the least
    measured error of the seeds that a grid has, with no model. ``told``: what a Gaussian process
    that is told the noise and the smoothness of the task gets from as many pilots, and from pilots
    of more seeds (`told_regret`).
    """
    table, task = read_runs(DIGITS), load_task("digits")
    sweep = Sweep.read(DIGITS, task)
    place = {run: row for row, run in enumerate(sweep.rows)}
    of = np.array([seed for *_, seed in sweep.rows])
    grid = read_reference()
    if any(np.isnan(errors).any() for errors in grid.errors) or set(of) & {
        int(seed) for seeds in grid.seeds for seed in seeds
    }:
        raise InputError(
            "the reference lacks cells (run it again: seeds half there are made anew), or shares "
            "dense seeds with the pilots."
        )
    names, loads, levels = np.unique(of), grid.loads, grid.levels
    cells = table.take(of == names[0])
    judged = Judged(grid, Reference(grid.errors), fits)
    for name, part in plans(sweep, orders(names[TRIED:])[:campaigns], loads, levels).items():
        for (design, load), rounds in part.items():
            runs = [run for some in rounds for run in some]
            k = int(loads.searchsorted(load))
            plan: dict[str, object] = {"plan": runs, "seconds_of_pilots": sweep.seconds(rounds)}
            if name in only:
                judged.fit(name, design, table.take([place[run] for run in runs]), load)
                judged.rows[-1] |= plan
            else:
                judged.rows.append({"from": f"{name}_process", "seed": design} | plan)
            judged.choose(f"{name}_process", design, k, by_process(sweep, levels, load, runs))
    for design in range(start, start + count) if "nine" in only else ():
        own = names[(OWN * design + np.arange(OWN)) % len(names)]
        where = cells.take(strata(cells, design))
        pairs = set(zip(where.settings[:, 0], where.load))
        some = np.array([pair in pairs for pair in zip(table.settings[:, 0], table.load)])
        judged.fit("nine", design, table.take(some & np.isin(of, own)))
    for design in range(len(names) // MANY) if "grid_ten" in only else ():
        own = names[MANY * design + np.arange(MANY)]
        judged.fit("grid_ten", design, table.take(np.isin(of, own)))
    for design in range(len(names) // OWN):
        mine = np.isin(of, names[OWN * design + np.arange(OWN)])
        if "grid" in only:
            judged.fit("grid", design, table.take(mine))
        for k, load in enumerate(loads):
            here = mine & np.isclose(table.load, load)
            measured = [table.error[here & (table.settings[:, 0] == v)].mean() for v in levels]
            judged.choose("own_grid", design, k, int(np.argmin(measured)))
    if "sweep" in only:
        judged.fit("sweep", 0, table)
    for design, order in enumerate(orders(names[TRIED:])[:campaigns]):
        for k, load in enumerate(loads):
            for name, runs in (("at_density", 9 * OWN), ("at_density_half", 9 * OWN // 2)):
                level = least_measured(sweep, levels, float(load), order, runs)
                judged.choose(name, design, k, level)
    # Those that need no pilots, at every density.
    for k in range(len(loads)):
        judged.choose("longest_training", 0, k, len(levels) - 1)
        for j in range(len(levels)):
            judged.choose("random", 0, k, j)
    reference = judged.reference
    by_density = {
        what: {
            str(float(load)): judged.summary(what, k)
            for k, load in enumerate(loads)
            if any(one[1] == k for one in some)
        }
        for what, some in judged.chosen.items()
    }
    return {
        "designs": {what: len({d for d, *_ in some}) for what, some in judged.chosen.items()},
        "replicates_of_the_reference": {
            f"{load:g}": len(seeds) for load, seeds in zip(loads, grid.seeds)
        },
        "pilots_have": OWN,
        "converged": float(
            np.mean([str(r["fit"]).startswith("converged") for r in judged.rows if "fit" in r])
        ),
        "regret": {what: judged.summary(what) for what in judged.chosen},
        "regret_points_with_densities_alike": {
            what: float(np.mean([one["regret_points"] for one in each.values()]))
            for what, each in by_density.items()
        },
        "told": told(reference, cells, loads, levels, len(names)),
        "regret_by_density": by_density,
        "reference_mean_points": {
            str(float(load)): dict(zip(map(str, levels), (100 * row.mean(1)).tolist()))
            for load, row in zip(loads, grid.errors)
        },
        "reference_standard_error_points": {
            str(float(load)): float(100 * row.std(1, ddof=1).mean() / np.sqrt(row.shape[1]))
            for load, row in zip(loads, grid.errors)
        },
        "probability_of_being_best": {
            str(float(load)): dict(zip(map(str, levels), reference.best(k).tolist()))
            for k, load in enumerate(loads)
        },
        "each": judged.rows,
    }


def orders(seeds: Sequence[int]) -> list[list[int]]:
    """Dense seeds of each campaign, best known first: each begins with a pair of its own."""
    names = [int(seed) for seed in seeds]
    return [names[at:] + names[:at] for at in range(0, len(names) - APART + 1, APART)]


def plans(
    sweep: Sweep, seeds: Sequence[Sequence[int]], loads: np.ndarray, levels: np.ndarray
) -> dict[str, dict[tuple[int, float], list[list[Run]]]]:
    """Rounds of runs of each adviser for one density, by (design, load); ``seeds`` by design."""
    out: dict[str, dict[tuple[int, float], list[list[Run]]]] = {}
    for design, order in enumerate(seeds):
        for load in map(float, loads):
            few = order[:MOST_SEEDS]
            some = {
                "campaign": campaign(sweep, "digits", load, few),
                "nearest": [nearest(levels, loads, load, order[:OWN])],
                "campaign_five": campaign(sweep, "digits", load, few, pilots=5),
            }
            for name, rounds in some.items():
                out.setdefault(name, {})[design, load] = rounds
    return out


def told(
    reference: Reference, cells: RunTable, loads: np.ndarray, levels: np.ndarray, most: int
) -> dict[str, dict[str, float]]:
    """`told_regret` of nine cells and of all, by dense seeds a pilot; ``most``: of the sweep."""
    surface = Surface.fit(reference.errors, loads, levels)
    number = loads.searchsorted(cells.load) * len(levels)
    number += levels.searchsorted(cells.settings[:, 0])

    def nine(generator: np.random.Generator) -> np.ndarray:
        return number[strata(cells, int(generator.integers(2**31)))]

    def every(generator: np.random.Generator) -> np.ndarray:
        return number

    return {
        f"{name}_of_{seeds}_seeds": told_regret(reference, surface, design, seeds)
        for name, design, several in (
            ("nine", nine, (OWN, MANY, most, min(some.shape[1] for some in reference.errors))),
            ("grid", every, (OWN, MANY, most)),
        )
        for seeds in several
    }


def advised(
    model: RegimeModel, levels: np.ndarray, load: float, errors: np.ndarray
) -> tuple[int, dict[str, float]]:
    """Index of the advised level; and how the model's expected errors meet the reference's means.

    ``errors`` [levels, replicates] are the reference's; ``log_score`` is the mean over levels of
    the log density of ln(mean error) under a normal of the model's draws; ``inside`` the share of
    means within the 90 % interval of what the reference would measure, its own error included;
    ``inside_alone`` that of the model's interval alone; ``expected_regret_points`` what the model
    thinks its advice costs.
    """
    drawn = model.predict(levels[:, None], np.full(len(levels), load)).error
    level = int(np.argmin(drawn.mean(0)))
    mean = errors.mean(1)
    log, error = np.log(drawn), errors.std(1, ddof=1) / np.sqrt(errors.shape[1])
    variance = log.var(0) + (error / mean) ** 2
    miss = np.log(mean) - log.mean(0)
    noise = (error / mean) * np.random.default_rng(0).standard_normal(drawn.shape)
    (low, high), (least, most) = (
        np.quantile(values, [0.05, 0.95], axis=0) for values in (np.exp(log + noise), drawn)
    )
    return level, {
        "log_score": float(np.mean(-0.5 * (miss**2 / variance + np.log(2 * np.pi * variance)))),
        "inside": float(np.mean((mean >= low) & (mean <= high))),
        "inside_alone": float(np.mean((mean >= least) & (mean <= most))),
        "expected_regret_points": float(100 * (drawn[:, level] - drawn.min(1)).mean()),
    }


def calibration(checks: list[dict[str, float]], load: float | None) -> dict[str, float]:
    """Means of the checks at a load, or at all; nothing where there are none."""
    if not checks:
        return {}
    some = [one for one in checks if load is None or one["load"] == load]
    names = ("log_score", "inside", "inside_alone", "expected_regret_points")
    return {name: float(np.mean([one[name] for one in some])) for name in names}
