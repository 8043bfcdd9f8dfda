"""Measure the regime model on the published grid of Zhou et al. 2023 (ICML).

    PROBCOMP_DATA=/data python benchmarks/regime.py designs --count 20
    PROBCOMP_DATA=/data python benchmarks/regime.py loo
    PROBCOMP_DATA=/data python benchmarks/regime.py diagnosis
    python benchmarks/regime.py sweep --store DIR --seeds 0 1 2
    python benchmarks/regime.py digits --count 10

``designs``: decisions at every cell from nine pilots drawn one to each of 3 x 3 strata. ``loo``:
test error of each density from the runs at the others. ``diagnosis``: too cold or too hot, on
widths and data sizes left out of the collection of Zhou et al. 2024 (ICML, MD tree). ``sweep``: run
every pilot of the digits task (90 s of CPU a dense seed); ``digits``: advice from nine of them,
judged on dense seeds that they do not hold. Results go to ``benchmarks/results``.
"""

import argparse
import csv
import json
import lzma
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from probcomp.errors import InputError
from probcomp.recipes.describe import machine
from probcomp.regime.baselines import (
    DiagnosisTree,
    ProcessBaseline,
    QuadraticBaseline,
    TreeBaseline,
    connectivity_rule,
    longest_training,
)
from probcomp.regime.coordinates import Coordinates
from probcomp.regime.decision import GAIN, best_actions
from probcomp.regime.diagnosis import COLUMNS as DIAGNOSIS_COLUMNS
from probcomp.regime.diagnosis import StackedDiagnosis, order_parameters
from probcomp.regime.fit import RegimeModel
from probcomp.regime.records import write_table
from probcomp.regime.sampler import Convergence
from probcomp.regime.store import Store
from probcomp.regime.sweep import grid_configs, run_pilots
from probcomp.regime.table import RunTable, read_runs

RESULTS = Path(__file__).parent / "results"
DIGITS = RESULTS / "regime_digits_runs.csv"
SWEEP_ORDER = ("dense_seed", "density", "epochs")
OWN = 2
"""Dense seeds of a pilot of the digits task (its default); the others judge."""

FITS: Path | None = None


def grid() -> RunTable:
    """The published grid: epochs by density."""
    return read_runs(data_folder() / "tables" / "three_regime_pruning_epochs.csv")


def strata(table: RunTable, seed: int, sides: int = 3) -> np.ndarray:
    """One run from each of sides x sides strata of knob rank and load rank."""
    generator = np.random.default_rng(seed)
    ranks = [np.unique(v, return_inverse=True)[1] for v in (table.settings[:, 0], table.load)]
    blocks = [sides * rank // (rank.max() + 1) for rank in ranks]
    label = blocks[0] * sides + blocks[1]
    return np.array([generator.choice(np.flatnonzero(label == k)) for k in range(sides**2)])


def actions(table: RunTable, errors: np.ndarray, gain: float = GAIN) -> np.ndarray:
    """Action of each draw at each run of a full grid, [draws, rows]."""
    out = np.empty((len(errors), len(table)), int)
    for load in np.unique(table.load):
        rows = np.flatnonzero(table.load == load)
        heat = table.knobs[0].coordinate(table.settings[rows, 0])
        for at, row in enumerate(rows):
            out[:, row] = best_actions(errors[:, rows], heat, at, gain)
    return out


def score(probability: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Accuracy, accuracy where a move is right, share of opposite moves, Brier score."""
    said = probability.argmax(1)
    moves = truth != 2
    return {
        "accuracy": float((said == truth).mean()),
        "moves_right": float((said == truth)[moves].mean()),
        "wrong_direction": float((moves & (said != 2) & (said != truth)).mean()),
        "brier": float(((probability - np.eye(3)[truth]) ** 2).sum(1).mean()),
    }


def probabilities(acts: np.ndarray) -> np.ndarray:
    """Share of each action over draws, [rows, 3]."""
    return np.stack([(acts == k).mean(0) for k in range(3)], 1)


def designs(count: int, start: int) -> dict[str, object]:
    """Scores of each predictor, averaged over designs."""
    table = grid()
    truth = actions(table, table.error[None])[0]
    rows: list[dict[str, object]] = []
    for seed in range(start, start + count):
        pilots = table.take(strata(table, seed))
        model, seconds = fit(pilots, f"design{seed}", seed)
        errors = {"regime": model.predict(table.settings, table.load).error}
        for name, kind in (
            ("process", ProcessBaseline),
            ("quadratic", QuadraticBaseline),
            ("tree", TreeBaseline),
        ):
            errors[name] = kind.fit(pilots).errors(table.settings, table.load, 1000, seed)
        row: dict[str, object] = {"seed": seed, "cpu_seconds": seconds}
        row |= {"fit": str(model.convergence), "share_of_regime_model": model.share}
        row["converged"] = model.convergence.ok
        for name, drawn in errors.items():
            row[name] = score(probabilities(actions(table, drawn)), truth)
            rmse = np.sqrt(np.mean((drawn.mean(0) - table.error) ** 2))
            row[name]["rmse_points"] = 100 * float(rmse)  # type: ignore[index]
        rows.append(row)
        print(seed, f"{seconds:.0f}s", row["regime"], row["process"], row["fit"], file=sys.stderr)
        clear()
    names = ("regime", "process", "quadratic", "tree")
    mean = {
        name: {key: float(np.mean([row[name][key] for row in rows])) for key in rows[0][name]}  # type: ignore[index]
        for name in names
    }
    for name, said in (
        ("connectivity_rule", connectivity_rule(table)),
        ("longest_training", longest_training(table)),
    ):
        mean[name] = score(np.eye(3)[said], truth)
    converged = float(np.mean([bool(row["converged"]) for row in rows]))
    return {"designs": count, "converged": converged, "mean": mean, "each": rows}


def leave_one_density_out() -> dict[str, object]:
    """Error of each held-out density: root mean square, log score, coverage of 90 % intervals."""
    table = grid()
    names = ("regime", "process", "quadratic", "tree")
    got: dict[str, list[np.ndarray]] = {name: [] for name in names}
    ends: list[np.ndarray] = []
    shares: list[float] = []
    held: list[np.ndarray] = []
    for density in np.unique(table.load):
        out = table.load == density
        train, test = table.take(~out), table.take(out)
        model, _ = fit(train, f"without{density:g}")
        shares.append(model.share)
        drawn = {"regime": model.predict(test.settings, test.load).observed}
        for name, kind in (
            ("process", ProcessBaseline),
            ("quadratic", QuadraticBaseline),
            ("tree", TreeBaseline),
        ):
            drawn[name] = kind.fit(train).observed(test.settings, test.load, 1000)
        for name in names:
            some = np.linspace(0, len(drawn[name]) - 1, 1000).astype(int)
            got[name].append(drawn[name][some])
        held.append(test.error)
        ends.append(np.full(len(test), density in (table.load.min(), table.load.max())))
        rmse = {n: 100 * np.sqrt(np.mean((got[n][-1].mean(0) - test.error) ** 2)) for n in names}
        print(
            density, {n: round(v, 3) for n, v in rmse.items()}, model.convergence, file=sys.stderr
        )
        clear()
    truth, end = np.concatenate(held), np.concatenate(ends)
    result: dict[str, object] = {"share_of_regime_model": shares}
    for name in names:
        drawn_all = np.concatenate(got[name], 1)
        miss = 100 * (drawn_all.mean(0) - truth)
        low, high = np.quantile(drawn_all, [0.05, 0.95], axis=0)
        result[name] = {
            "rmse_points": float(np.sqrt(np.mean(miss**2))),
            "rmse_points_interior": float(np.sqrt(np.mean(miss[~end] ** 2))),
            "coverage_90": float(np.mean((truth >= low) & (truth <= high))),
        }
    return result


def diagnosed_runs(folder: Path) -> dict[str, np.ndarray]:
    """The model-diagnosis collection: features of ours, of the tree, labels, and what to split by.

    ``bs_failure`` names the temperature, not the batch size: "small" is too cold.
    """
    path = folder / "tables" / "model_diagnosis_normal.csv.xz"
    with lzma.open(path, "rt", encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["bs_failure"] != "optimal"]
    columns = {name: np.array([float(row[name]) for row in rows]) for name in DIAGNOSIS_COLUMNS}
    columns |= {name: np.array([float(row[name]) for row in rows]) for name in ("data", "width")}
    names = ("train_error", "mode_connectivity_peak", "hessian_t")
    knobs = ("log_bs", "log_para_amount", "log_data_amount")
    landscape = (*names, "mode_connectivity", "CKA")
    return {
        "features": order_parameters(columns),
        "tree_features": np.column_stack([columns[name] for name in names]),
        "knob_features": np.column_stack([columns[name] for name in knobs]),
        "landscape_features": np.column_stack([columns[name] for name in landscape]),
        "too_cold": np.array([row["bs_failure"] == "small" for row in rows]),
        "data": columns["data"],
        "width": columns["width"],
    }


def diagnosis() -> dict[str, object]:
    """Accuracy and Brier score on what was left out, ours and trees refitted on the same rows."""
    from sklearn.tree import DecisionTreeClassifier

    runs = diagnosed_runs(data_folder())
    cold = runs["too_cold"]

    def tree(depth: int, train: np.ndarray, test: np.ndarray, labels: np.ndarray) -> np.ndarray:
        model = DecisionTreeClassifier(max_depth=depth, min_samples_leaf=5, random_state=0)
        return model.fit(train, labels).predict_proba(test)[:, 1]

    kinds = {
        "ours": ("features", lambda a, b, y: StackedDiagnosis.fit(a, y).probability(b)),
        "md_tree": (
            "tree_features",
            lambda a, b, y: DiagnosisTree.fit(a, np.where(y, 0, 1)).probability(b),
        ),
        "landscape_tree": ("landscape_features", lambda a, b, y: tree(4, a, b, y)),
        "hyperparameter_tree": ("knob_features", lambda a, b, y: tree(4, a, b, y)),
    }
    splits = {
        "each data size": [runs["data"] == v for v in np.unique(runs["data"])],
        "each width": [runs["width"] == v for v in np.unique(runs["width"])],
        "3 smallest data sizes": [runs["data"] <= 3],
        "3 largest data sizes": [runs["data"] >= 8],
        "every other data size": [runs["data"] % 2 == 1],
        "4 widest": [runs["width"] >= 45],
        "4 narrowest": [runs["width"] <= 4],
    }
    out: dict[str, object] = {"rows": len(cold)}
    for name, held in splits.items():
        scores = {}
        for kind, (key, run) in kinds.items():
            said = [(run(runs[key][~h], runs[key][h], cold[~h]), cold[h]) for h in held]
            p, y = (np.concatenate(parts) for parts in zip(*said))
            scores[kind] = {
                "accuracy": float(((p > 0.5) == y).mean()),
                "brier": float(((p - y) ** 2).mean()),
            }
        out[name] = scores
    return out


def sweep(store: Path, jobs: int | None, seeds: Sequence[int]) -> dict[str, object]:
    """Every level and density of the digits task, two retrain seeds; new dense seeds are added.

    Rows of other dense seeds that the table holds already are kept.
    """
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


def digits(count: int, start: int) -> dict[str, object]:
    """Advice from nine pilots at every density, judged on replicates that they do not hold.

    A pilot has ``OWN`` dense seeds, as pilots of the task have; all other seeds of the sweep judge.
    """
    from _regime_regret import Regrets  # beside this script

    table = read_runs(DIGITS)
    with DIGITS.open(newline="") as stream:
        of = np.array([int(float(row["dense_seed"])) for row in csv.DictReader(stream)])
    loads, levels = np.unique(table.load), np.unique(table.settings[:, 0])
    names = np.unique(of)
    errors = np.full((len(loads), len(levels), len(names)), np.nan)
    at = (loads.searchsorted(table.load), levels.searchsorted(table.settings[:, 0]))
    errors[(*at, names.searchsorted(of))] = table.error
    if np.isnan(errors).any():
        raise InputError(f"{DIGITS.name} lacks cells; run the sweep first.")
    cells = table.take(of == names[0])
    advisers = {name: Regrets() for name in ("advice", "own_grid", "longest_training", "random")}
    by_load = {float(load): Regrets() for load in loads}
    rows = []
    for seed in range(start, start + count):
        mine = np.isin(np.arange(len(names)), (OWN * seed + np.arange(OWN)) % len(names))
        where = cells.take(strata(cells, seed))
        chosen = [(e, d) in zip(where.settings[:, 0], where.load) for e, d in
                  zip(table.settings[:, 0], table.load)]  # fmt: skip
        pilots = table.take(np.array(chosen) & np.isin(of, names[mine]))
        model, seconds = fit(pilots, f"digits{seed}", seed)
        near = (levels >= pilots.settings.min()) & (levels <= pilots.settings.max())
        said = []
        for k in np.flatnonzero((loads >= pilots.load.min()) & (loads <= pilots.load.max())):
            predicted = model.predict(levels[near][:, None], np.full(near.sum(), loads[k]))
            level = int(np.flatnonzero(near)[np.argmin(predicted.error.mean(0))])
            said.append((float(loads[k]), float(levels[level])))
            judge, who = errors[k][:, ~mine], names[~mine]
            advisers["advice"].add(judge, who, level)
            by_load[float(loads[k])].add(judge, who, level)
            advisers["own_grid"].add(judge, who, int(np.argmin(errors[k][:, mine].mean(1))))
            advisers["longest_training"].add(judge, who, len(levels) - 1)
            advisers["random"].add_all(judge, who)
        rows.append(
            {
                "seed": seed, "dense_seeds": names[mine].tolist(), "cpu_seconds": seconds,
                "fit": str(model.convergence), "best_epochs": said,
            }
        )  # fmt: skip
        print(rows[-1], file=sys.stderr)
        clear()
    spread = errors.std(2, ddof=1)
    return {
        "designs": count,
        "replicates": len(names),
        "pilots_have": OWN,
        "converged": float(np.mean([str(row["fit"]).startswith("converged") for row in rows])),
        "regret": {name: adviser.summary() for name, adviser in advisers.items()},
        "regret_by_density": {
            str(load): adviser.summary()
            for load, adviser in by_load.items()
            if len(adviser.by_replicate) > 1
        },
        "standard_error_of_a_judged_cell_points": {
            str(load): float(100 * row.mean() / np.sqrt(len(names) - OWN))
            for load, row in zip(loads, spread)
        },
        "mean_error_points": {
            str(load): dict(zip(map(str, levels), (100 * row.mean(1)).tolist()))
            for load, row in zip(loads, errors)
        },
        "each": rows,
    }


def data_folder() -> Path:
    """Where the optional real data are."""
    folder = os.environ.get("PROBCOMP_DATA")
    if not folder:
        raise InputError("set PROBCOMP_DATA to the directory that contains tables/.")
    return Path(folder)


def fit(table: RunTable, name: str, seed: int = 0) -> tuple[RegimeModel, float]:
    """A fit and the seconds of CPU it took; read again from ``FITS`` if an earlier run kept it."""
    path = None if FITS is None else FITS / f"{name}.npz"
    if path is not None and path.is_file():
        kept = np.load(path)
        coordinates = Coordinates.of(table)
        gates = Convergence(*(kept["gates"][:2]), *map(int, kept["gates"][2:]))
        saved = SavedDraws(kept["u"])
        model = RegimeModel(table, coordinates, saved, gates, None, seed)
        return model.with_processes(), float(kept["seconds"])
    began = time.process_time()
    model = RegimeModel.fit(table, seed=seed)
    seconds = time.process_time() - began
    if path is not None:
        gates = model.convergence
        numbers = [gates.rhat, gates.ess, gates.divergences, gates.draws]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, u=model.draws, gates=numbers, seconds=seconds)
    return model, seconds


@dataclass(frozen=True)
class SavedDraws:
    """Draws that an earlier run of this script kept."""

    u: np.ndarray

    def get_samples(self) -> dict[str, np.ndarray]:
        """As NumPyro's sampler gives them."""
        return {"u": self.u}


def clear() -> None:
    """Drop compiled programs: each fit maps code, and the kernel limits the number of maps."""
    import jax

    jax.clear_caches()


def main() -> None:
    """Run one benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("designs", "loo", "diagnosis", "sweep", "digits"))
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: results/regime_WHAT.json")
    parser.add_argument("--store", type=Path, default=Path("probcomp-pilots"), help="of the sweep")
    parser.add_argument("--jobs", type=int, help="worker processes of the sweep")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="dense seeds of it")
    parser.add_argument("--fits", type=Path, help="keep draws here, to go on after a kill")
    options = parser.parse_args()
    global FITS
    FITS = options.fits
    import jax

    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    run = {
        "designs": lambda: designs(options.count, options.start),
        "loo": leave_one_density_out,
        "diagnosis": diagnosis,
        "sweep": lambda: sweep(options.store, options.jobs, options.seeds),
        "digits": lambda: digits(options.count, options.start),
    }
    result = run[options.what]()
    shown = ["DIR" if "/" in word else word for word in sys.argv[1:]]
    record = {
        "command": " ".join(["python benchmarks/regime.py", *shown]),
        "machine": machine(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "result": result,
    }
    RESULTS.mkdir(exist_ok=True)
    path = options.out or RESULTS / f"regime_{options.what}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    printed = result["mean"] if options.what == "designs" else result
    print(json.dumps(printed, indent=1))


if __name__ == "__main__":
    main()
