"""Advice on the grid of Zhou et al. 2023 (ICML): from nine pilots, and at new densities."""

import os
import sys
from pathlib import Path

import numpy as np
from _regime_fits import Fits, clear  # beside this file

from probcomp.errors import InputError
from probcomp.regime.baselines import (
    ProcessBaseline,
    QuadraticBaseline,
    TreeBaseline,
    connectivity_rule,
    longest_training,
)
from probcomp.regime.decision import GAIN, best_actions
from probcomp.regime.table import RunTable, read_runs


def data_folder() -> Path:
    """Where the optional real data are."""
    folder = os.environ.get("PROBCOMP_DATA")
    if not folder:
        raise InputError("set PROBCOMP_DATA to the directory that contains tables/.")
    return Path(folder)


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


def designs(count: int, start: int, fits: Fits) -> dict[str, object]:
    """Scores of each predictor, averaged over designs."""
    table = grid()
    truth = actions(table, table.error[None])[0]
    rows: list[dict[str, object]] = []
    for seed in range(start, start + count):
        pilots = table.take(strata(table, seed))
        model, seconds = fits.fit(pilots, f"design{seed}", seed)
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


def leave_one_density_out(fits: Fits) -> dict[str, object]:
    """Error of each held-out density: root mean square, log score, coverage of 90 % intervals."""
    table = grid()
    names = ("regime", "process", "quadratic", "tree")
    got: dict[str, list[np.ndarray]] = {name: [] for name in names}
    ends: list[np.ndarray] = []
    shares: list[float] = []
    fits_said: list[str] = []
    held: list[np.ndarray] = []
    for density in np.unique(table.load):
        out = table.load == density
        train, test = table.take(~out), table.take(out)
        model, _ = fits.fit(train, f"without{density:g}")
        shares.append(model.share)
        fits_said.append(str(model.convergence))
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
    result: dict[str, object] = {"share_of_regime_model": shares, "fits": fits_said}
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
