"""A real sweep on digits: its pilots, and advice from nine of them judged on a reference grid."""

import csv
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from _regime_fits import Fits, clear  # these lie beside this file
from _regime_grid import strata
from _regime_reference import FIRST, read_reference
from _regime_regret import Reference
from _regime_told import Surface, told_regret

from probcomp.errors import InputError
from probcomp.regime.fit import RegimeModel
from probcomp.regime.records import write_table
from probcomp.regime.store import Store
from probcomp.regime.sweep import grid_configs, run_pilots
from probcomp.regime.table import RunTable, read_runs

RESULTS = Path(__file__).parent / "results"
DIGITS = RESULTS / "regime_digits_runs.csv"
SWEEP_ORDER = ("dense_seed", "density", "epochs")
Chosen = list[tuple[int, int, int]]
"""(design, load, level) of every piece of advice."""

OWN = 2
"""Dense seeds of a pilot of the digits task (its default)."""

MANY = 5
"""Dense seeds of a larger sweep."""


def sweep(store: Path, jobs: int | None, seeds: Sequence[int]) -> dict[str, object]:
    """Every level and density of the digits task, two retrain seeds; new dense seeds are added.

    Rows of other dense seeds that the table holds already are kept.
    """
    if any(seed >= FIRST for seed in seeds):
        raise InputError(f"dense seeds from {FIRST} on are the reference's.")
    records = []
    for seed in seeds:
        configs = [replace(c, dense_seed=seed) for c in grid_configs("digits") if c.dense_seed == 0]
        records += run_pilots(configs, Store(store), jobs=jobs)
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / "new.csv"
        write_table(records, "epochs", new)
        texts = [path.read_text() for path in (DIGITS, new) if path.is_file()]
    header, *rows = csv.reader(line for text in texts for line in text.splitlines())
    rows = [row for row in rows if row != header]
    keys = [tuple(float(row[header.index(n)]) for n in SWEEP_ORDER) for row in rows]
    latest = dict(zip(keys, rows))  # a seed run again takes its own place
    with DIGITS.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([header, *(latest[key] for key in sorted(latest))])
    seconds = sum(run["wall_s"] for record in records for run in record["runs"])
    return {
        "dense_seeds": list(seeds),
        "pilots": len(records),
        "rows_of_the_table": len(latest),
        "table": DIGITS.name,
        "retraining_seconds": seconds,
    }


def digits(count: int, start: int, fits: Fits) -> dict[str, object]:
    """Advice from the sweep, judged on a reference grid: from nine pilots up to all of them.

    Estimated is the mean, over designs and densities, of the error at the advised level less that
    at the best level, both averaged over dense and retraining seeds. The reference has seeds of its
    own, which no pilot shares. The rule of the advice: the level of least expected error.

    ``nine``: nine cells of ``OWN`` dense seeds, ``count`` designs. ``grid`` and ``five``: every
    cell of ``OWN`` or ``MANY`` dense seeds, each seed once. ``sweep``: every cell and seed, one
    design. ``own_grid`` takes the least measured error of the seeds that a grid has, with no model.
    ``told``: what a Gaussian process that is told the noise and the smoothness of the task gets
    from as many pilots, and from pilots of more seeds (`told_regret`).
    """
    table = read_runs(DIGITS)
    with DIGITS.open(newline="") as stream:
        of = np.array([int(float(row["dense_seed"])) for row in csv.DictReader(stream)])
    judges, loads, levels, errors = read_reference()
    if np.isnan(errors).any() or set(judges) & set(of):
        raise InputError(
            "the reference lacks cells (run it again: seeds half there are made anew), or shares "
            "dense seeds with the pilots."
        )
    reference, names = Reference(errors), np.unique(of)
    cells = table.take(of == names[0])
    chosen: dict[str, Chosen] = {}
    checks: dict[str, list[dict[str, float]]] = {}
    rows: list[dict[str, object]] = []

    def run(what: str, design: int, rows_of: np.ndarray, own: np.ndarray) -> None:
        """Fit, advise at every density in range, and count what was said."""
        pilots = table.take(rows_of & np.isin(of, own))
        model, seconds = fits.fit(pilots, f"{what}{design}", design)
        near = np.flatnonzero((levels >= pilots.settings.min()) & (levels <= pilots.settings.max()))
        said = []
        for k in np.flatnonzero((loads >= pilots.load.min()) & (loads <= pilots.load.max())):
            level, check = advised(model, levels[near], float(loads[k]), errors[k][near])
            said.append((float(loads[k]), float(levels[near[level]])))
            checks.setdefault(what, []).append({"load": float(loads[k]), **check})
            chosen.setdefault(what, []).append((design, k, int(near[level])))
        rows.append(
            {
                "from": what, "seed": design, "dense_seeds": own.tolist(), "cpu_seconds": seconds,
                "fit": str(model.convergence), "best_epochs": said,
            }
        )  # fmt: skip
        print(rows[-1], file=sys.stderr)
        clear()

    for design in range(start, start + count):
        own = names[(OWN * design + np.arange(OWN)) % len(names)]
        where = cells.take(strata(cells, design))
        pairs = set(zip(where.settings[:, 0], where.load))
        some = np.array([pair in pairs for pair in zip(table.settings[:, 0], table.load)])
        run("nine", design, some, own)
    everything = np.ones(len(table), bool)
    for design in range(len(names) // MANY):
        run("five", design, everything, names[MANY * design + np.arange(MANY)])
    for design in range(len(names) // OWN):
        own = names[OWN * design + np.arange(OWN)]
        run("grid", design, everything, own)
        mine = np.isin(of, own)
        for k, load in enumerate(loads):
            here = mine & np.isclose(table.load, load)
            measured = [table.error[here & (table.settings[:, 0] == v)].mean() for v in levels]
            chosen.setdefault("own_grid", []).append((design, k, int(np.argmin(measured))))
    run("sweep", 0, everything, names)
    # Those that need no pilots, at the densities of the advice from nine.
    chosen["longest_training"] = [(d, k, len(levels) - 1) for d, k, _ in chosen["nine"]]
    chosen["random"] = [(d, k, j) for d, k, _ in chosen["nine"] for j in range(len(levels))]
    return {
        "designs": {what: len({d for d, *_ in some}) for what, some in chosen.items()},
        "replicates_of_the_reference": len(judges),
        "pilots_have": OWN,
        "converged": float(np.mean([str(row["fit"]).startswith("converged") for row in rows])),
        "regret": {
            what: reference.summary(some) | calibration(checks.get(what, []), None)
            for what, some in chosen.items()
        },
        "told": told(reference, cells, loads, levels, len(names)),
        "regret_by_density": {
            what: {
                str(float(load)): reference.summary(here) | calibration(checks[what], float(load))
                for k, load in enumerate(loads)
                if (here := [one for one in chosen[what] if one[1] == k])
            }
            for what in checks
        },
        "reference_mean_points": {
            str(float(load)): dict(zip(map(str, levels), (100 * row.mean(1)).tolist()))
            for load, row in zip(loads, errors)
        },
        "reference_standard_error_points": {
            str(float(load)): float(100 * row.std(1, ddof=1).mean() / np.sqrt(len(judges)))
            for load, row in zip(loads, errors)
        },
        "probability_of_being_best": {
            str(float(load)): dict(zip(map(str, levels), reference.best(k).tolist()))
            for k, load in enumerate(loads)
        },
        "each": rows,
    }


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
            ("nine", nine, (OWN, MANY, most, len(reference.errors[0, 0]))),
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
