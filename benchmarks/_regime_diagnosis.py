"""Too cold or too hot, on widths and data sizes left out (collection of Zhou et al. 2024, ICML)."""

import csv
import lzma
from pathlib import Path

import numpy as np
from _regime_grid import data_folder  # beside this file

from probcomp.regime.baselines import DiagnosisTree
from probcomp.regime.diagnosis import COLUMNS as DIAGNOSIS_COLUMNS
from probcomp.regime.diagnosis import StackedDiagnosis, order_parameters


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
