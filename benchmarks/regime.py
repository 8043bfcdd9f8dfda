"""Measure the regime model on the published grid of Zhou et al. 2023 (ICML).

    PROBCOMP_DATA=/data python benchmarks/regime.py designs --count 20
    PROBCOMP_DATA=/data python benchmarks/regime.py loo

``designs``: decisions at every cell from nine pilots drawn one to each of 3 x 3 strata. ``loo``:
test error of each density from the runs at the others. Results go to ``benchmarks/results``.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probcomp.errors import InputError
from probcomp.regime.baselines import (
    ProcessBaseline,
    QuadraticBaseline,
    TreeBaseline,
    connectivity_rule,
    longest_training,
)
from probcomp.regime.coordinates import Coordinates
from probcomp.regime.decision import GAIN, best_actions
from probcomp.regime.fit import RegimeModel
from probcomp.regime.sampler import Convergence
from probcomp.regime.table import RunTable, read_runs

RESULTS = Path(__file__).parent / "results"
FITS: Path | None = None


def grid() -> RunTable:
    """The published grid: epochs by density."""
    folder = os.environ.get("PROBCOMP_DATA")
    if not folder:
        raise InputError("set PROBCOMP_DATA to the directory that contains tables/.")
    return read_runs(Path(folder) / "tables" / "three_regime_pruning_epochs.csv")


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
    parser.add_argument("what", choices=("designs", "loo"))
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: results/regime_WHAT.json")
    parser.add_argument("--fits", type=Path, help="keep draws here, to go on after a kill")
    options = parser.parse_args()
    global FITS
    FITS = options.fits
    import jax

    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if options.what == "designs":
        result = designs(options.count, options.start)
    else:
        result = leave_one_density_out()
    record = {
        "command": " ".join(["python benchmarks/regime.py", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "result": result,
    }
    RESULTS.mkdir(exist_ok=True)
    path = options.out or RESULTS / f"regime_{options.what}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    shown = result["mean"] if options.what == "designs" else result
    print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main()
