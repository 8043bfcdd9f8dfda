"""Advice judged on a second task, with another knob, on which no part of it was tried."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from _regime_campaign import Sweep, by_process, campaign, least_measured  # beside this file
from _regime_digits import add_to_table, advised, calibration, check_seeds, orders
from _regime_fits import Fits, clear
from _regime_many import grid_pilots
from _regime_reference import Replicates, read_reference
from _regime_reference import reference as replicate
from _regime_regret import Reference
from numpy.typing import NDArray

from probcomp.errors import InputError
from probcomp.regime.decision import ACTIONS, GAIN, best_actions, decide
from probcomp.regime.knobs import Knob
from probcomp.regime.planner import MOST_SEEDS
from probcomp.regime.table import read_runs
from probcomp.regime.tasks import load_task

HERE = Path(__file__).parent
FASHION = str(HERE / "fashion_task.py")
RUNS = HERE / "results" / "regime_fashion_runs.csv"
REFERENCE = HERE / "results" / "regime_fashion_reference.csv"

CONFIDENCE = 0.8
"""Least probability of an action that is said; below it the advice is undecided (the default)."""

TWICE = 18
"""Pilots of longer campaigns, of which the model is not asked: a fit takes half a minute."""

Array = NDArray[np.float64]


def fashion(campaigns: int, fits: Fits) -> dict[str, object]:
    """What ``probcomp advise --task benchmarks/fashion_task.py --pilots 9`` costs and claims.

    ``campaign``: at each density ``campaigns`` campaigns, each begun with dense seeds of its own,
    told by the rows of a sweep. Its regret is judged on seeds that no pilot has (`Reference`), and
    ``inside`` is the share of the reference's means within the model's 90 % intervals (the doubt
    of those means included). For as many runs as each campaign made: ``at_density``, the least
    measured error at that density, with no model; ``campaign_process``, the advice of the process
    that plans the campaign and knows no regimes. ``campaign_twice_process`` and
    ``at_density_twice`` are those of `TWICE` pilots. Without runs: ``as_it_is``, the batch size of
    the task's recipe; ``coldest``, ``hottest``, the ends of the levels; ``random``.

    ``decisions``: raise, lower or keep, said of each level as the present one (and of the coldest
    alone, the default of the command), against what the reference gives; see `decisions_met`.
    """
    present(RUNS, REFERENCE)
    task = load_task(FASHION)
    sweep, table, grid = Sweep.read(RUNS, task), read_runs(RUNS), read_reference(REFERENCE)
    seeds = sorted({seed for *_, seed in sweep.rows})
    check_apart(grid, seeds)
    place = {run: row for row, run in enumerate(sweep.rows)}
    reference, levels = Reference(grid.errors), grid.levels
    chosen: dict[str, list[tuple[int, int, int]]] = {}
    said: list[dict[str, object]] = []
    checks: list[dict[str, float]] = []
    each: list[dict[str, object]] = []
    knob = task.turned_knob
    start = task.recipe.to_json()[task.knob]
    for design, order in enumerate(orders(seeds)[:campaigns]):
        mine = order[:MOST_SEEDS]
        for k, load in enumerate(map(float, grid.loads)):
            rounds = campaign(sweep, FASHION, load, mine)
            runs = [run for some in rounds for run in some]
            pilots = table.take([place[run] for run in runs])
            model, seconds = fits.fit(pilots, f"fashion{design}_{load:g}", design)
            level, check = advised(model, levels, load, grid.errors[k])
            drawn = model.predict(levels[:, None], np.full(len(levels), load)).error
            found = decisions(drawn, levels, knob)
            clear()
            checks.append({"load": load, **check})
            ok = model.convergence.ok
            said += [
                {"load": k, "at": at, "probability": p, "converged": ok} for at, p in found.items()
            ]
            choose(chosen, "campaign", design, k, level)
            choose(chosen, "campaign_process", design, k, by_process(sweep, levels, load, runs))
            measured = least_measured(sweep, levels, load, order, len(runs))
            choose(chosen, "at_density", design, k, measured)
            twice = [r for some in campaign(sweep, FASHION, load, mine, TWICE) for r in some]
            choose(
                chosen, "campaign_twice_process", design, k, by_process(sweep, levels, load, twice)
            )
            most = least_measured(sweep, levels, load, order, len(twice))
            choose(chosen, "at_density_twice", design, k, most)
            row: dict[str, object] = {"density": load, "seed": design, "best": float(levels[level])}
            row |= {"measured": float(levels[measured]), "fit": str(model.convergence)}
            row |= {"of_the_coldest": dict(zip(ACTIONS, found[coldest(levels, knob)].tolist()))}
            row |= {"cpu_seconds": seconds, "seconds_of_pilots": sweep.seconds(rounds)}
            row |= {"inside": check["inside"], "plan": runs}
            print(row, file=sys.stderr)
            each.append(row)
    cold = coldest(levels, knob)
    for k in range(len(grid.loads)):
        choose(chosen, "as_it_is", 0, k, int(np.flatnonzero(levels == start)[0]))
        choose(chosen, "coldest", 0, k, cold)
        choose(chosen, "hottest", 0, k, len(levels) - 1 - cold)
        for j in range(len(levels)):
            choose(chosen, "random", 0, k, j)

    def by_density(what: str) -> dict[str, object]:
        here = {k: [one for one in chosen[what] if one[1] == k] for k in range(len(grid.loads))}
        return {f"{load:g}": reference.summary(here[k]) for k, load in enumerate(grid.loads)}

    return {
        "task": task.name,
        "knob": task.knob,
        "campaigns_of_each_density": campaigns,
        "runs_of_a_campaign": sorted({len(row["plan"]) for row in each}),  # type: ignore[arg-type]
        "dense_seeds_of_the_sweep": seeds,
        "replicates_of_the_reference": {
            f"{load:g}": len(names) for load, names in zip(grid.loads, grid.seeds)
        },
        "converged": float(np.mean([str(row["fit"]).startswith("converged") for row in each])),
        "regret": {what: reference.summary(some) for what, some in chosen.items()},
        "calibration": calibration(checks, None),
        "decisions": {
            "of_all_levels": decisions_met(said, reference, levels, knob),
            "of_the_coldest": decisions_met(
                [one for one in said if one["at"] == cold], reference, levels, knob
            ),
        },
        "regret_by_density": {what: by_density(what) for what in chosen},
        "calibration_by_density": {
            f"{load:g}": calibration(checks, float(load)) for load in grid.loads
        },
        "surface": surface(sweep, grid, reference),
        "each": each,
    }  # fmt: skip


def fashion_sweep(seeds: Sequence[int]) -> dict[str, object]:
    """Every level and density of the task, of each dense seed; those in the table are passed over.

    The pilots of a seed are retrained side by side (`grid_pilots`).
    """
    check_seeds(seeds)
    torch.set_num_threads(1)
    task = load_task(FASHION)
    known = {seed for *_, seed in Sweep.read(RUNS, task).rows} if RUNS.is_file() else set()
    began, new = time.process_time(), [seed for seed in seeds if seed not in known]
    for seed in new:
        add_to_table(grid_pilots(FASHION, seed), task.knob, RUNS)
    rows = Sweep.read(RUNS, task).rows
    out: dict[str, object] = {"table": RUNS.name, "rows_of_the_table": len(rows), "new": len(new)}
    out["dense_seeds"] = sorted({seed for *_, seed in rows})
    seconds = time.process_time() - began
    return out | ({"cpu_seconds_a_new_seed": seconds / len(new)} if new else {})


def fashion_reference(
    seeds: Sequence[int], densities: Sequence[float] | None = None
) -> dict[str, object]:
    """Replicates of every cell of the task, see `_regime_reference.reference`."""
    return replicate(seeds, densities, path=REFERENCE, source=FASHION)


def choose(chosen: dict[str, list[tuple[int, int, int]]], what: str, *advice: int) -> None:
    """Count one piece of advice: (design, load, level)."""
    design, load, level = advice
    chosen.setdefault(what, []).append((design, load, level))


def present(*tables: Path) -> None:
    """Refuse where a table or the data are missing.

    The task is loaded for its levels and costs, so the images must be there even to judge.
    """
    missing = [path.name for path in tables if not path.is_file()]
    if missing:
        raise InputError(
            f"results/{missing[0]} is missing; run 'regime.py fashion-sweep --seeds 0 1 2 3 4 5 6 "
            "7' and 'regime.py fashion-reference'."
        )
    if not os.environ.get("PROBCOMP_DATA"):
        raise InputError("set PROBCOMP_DATA to the directory that contains fashion_mnist/.")


def check_apart(grid: Replicates, seeds: Sequence[int]) -> None:
    """Refuse a reference with empty cells, or one that shares dense seeds with the pilots."""
    if any(np.isnan(errors).any() for errors in grid.errors):
        raise InputError("the reference lacks cells; run it again, seeds half there are made anew.")
    if shared := set(seeds) & {int(seed) for names in grid.seeds for seed in names}:
        raise InputError(f"the reference and the pilots share dense seeds: {sorted(shared)}.")


def coldest(levels: Array, knob: Knob) -> int:
    """Index of the coldest level: where the command takes the knob to stand."""
    return int(np.argmin(knob.coordinate(levels)))


def decisions(drawn: Array, levels: Array, knob: Knob) -> dict[int, Array]:
    """P(raise, lower, keep) with each level as the present one; ``drawn`` [draws, levels]."""
    heat = knob.coordinate(levels)
    return {at: decide(drawn, levels, heat, at, GAIN).probability for at in range(len(levels))}


def decisions_met(
    said: list[dict[str, object]], reference: Reference, levels: Array, knob: Knob
) -> dict[str, float]:
    """How decisions meet the reference, whose own doubt is averaged over.

    Args:
        said: ``load`` and ``at``, indices, ``probability`` of raise, lower and keep, and whether
            the fit ``converged``: if not, the advice is undecided.

    Returns:
        ``sure``: share with an action of probability `CONFIDENCE` or more. Of those ``right``,
        the probability, by the reference's posterior, that the action is the right one; ``wrong``,
        that a move is right and it is the opposite one (keep where a move is right, and a move
        where keep is, are neither). ``right_of_all`` and ``wrong_of_all`` take the likeliest
        action of every decision; ``brier`` is the squared distance of the probabilities.
    """
    if not said:
        return {"decisions": 0}
    heat = knob.coordinate(levels)
    rows = []
    for one in said:
        probability = np.asarray(one["probability"], float)
        true = best_actions(reference.mu[int(one["load"])], heat, int(one["at"]), GAIN)  # type: ignore[call-overload]
        truth = np.bincount(true, minlength=3) / len(true)
        action = int(probability.argmax())
        against = {0: truth[1], 1: truth[0], 2: 0.0}[action]
        brier = float((((probability - np.eye(3)) ** 2).sum(1) * truth).sum())
        sure = bool(one["converged"]) and probability.max() >= CONFIDENCE
        rows.append((sure, truth[action], against, truth[2], brier))
    kept, right, wrong, keep, brier = np.array(rows, float).T
    kept = kept > 0
    out = {
        "decisions": len(said),
        "sure": float(kept.mean()),
        "right_of_all": float(right.mean()),
        "wrong_of_all": float(wrong.mean()),
        "keep_is_right": float(keep.mean()),
        "brier": float(brier.mean()),
    }
    if kept.any():
        out |= {"right": float(right[kept].mean()), "wrong": float(wrong[kept].mean())}
    return out


def surface(sweep: Sweep, grid: Replicates, reference: Reference) -> dict[str, object]:
    """What there is to decide: means of the reference with their error, and connectivity."""
    levels = [f"{level:g}" for level in grid.levels]

    def lmc(level: float, load: float) -> float:
        rows = [row for (v, d, _), row in sweep.rows.items() if (v, d) == (level, load)]
        return float(np.mean([row["lmc"] for row in rows]))

    return {
        f"{load:g}": {
            "mean_points": dict(zip(levels, (100 * errors.mean(1)).tolist())),
            "standard_error_points": float(
                100 * errors.std(1, ddof=1).mean() / np.sqrt(errors.shape[1])
            ),
            "probability_of_being_best": dict(zip(levels, reference.best(k).tolist())),
            "lmc": dict(zip(levels, [lmc(float(v), float(load)) for v in grid.levels])),
        }
        for k, (load, errors) in enumerate(zip(grid.loads, grid.errors))
    }  # fmt: skip
