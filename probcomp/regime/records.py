"""Records of pilots as a run table, as columns, and as a small file others can read."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probcomp.errors import InputError
from probcomp.regime.store import Record, content_key
from probcomp.storage import write_text

COLUMNS = (
    *("dense_seed", "density", "density_realised", "test_error", "lmc", "cka"),
    *("agreement", "train_error", "pruned_test_error", "dense_test_error", "wall_s"),
)


def pilot_rows(records: Iterable[Record], knob: str) -> list[dict[str, float]]:
    """One row a pilot (a dense seed at a setting and a density): means over its models and pairs.

    Rows that share setting and density are replicates. Pilots that diverged have no row.
    """
    rows = []
    for record in records:
        if record["status"] != "done":
            continue
        runs, pairs, dense = record["runs"], record["pairs"], record["dense"]
        rows.append(
            {
                knob: float(record["config"]["recipe"][knob]),
                "dense_seed": record["config"]["dense_seed"],
                "density": record["config"]["density"],
                "density_realised": _mean(runs, "density_realised"),
                "test_error": _mean(runs, "test_error"),
                "lmc": min(_mean(pairs, "lmc"), 0.0),
                "cka": _mean(pairs, "cka_softmax"),
                "agreement": _mean(pairs, "agreement"),
                "train_error": _mean(runs, "train_error"),
                "pruned_test_error": _mean(runs, "pruned_test_error"),
                "dense_test_error": dense["test_error"],
                "wall_s": sum(run["wall_s"] for run in runs) + sum(p["wall_s"] for p in pairs),
            }
        )
    return rows


def pilot_columns(records: Iterable[Record], knob: str) -> dict[str, list[float]]:
    """The rows as columns of a run table, as `probcomp.regime.read_runs` takes them.

    Raises:
        InputError: where no pilot ended well.
    """
    records = list(records)
    rows = pilot_rows(records, knob)
    if not rows:
        reasons = sorted({record.get("reason", "no record") for record in records})
        raise InputError(f"no pilot ended well: {'; '.join(reasons) or 'none was run'}.")
    return {name: [row[name] for row in rows] for name in (knob, *COLUMNS)}


def write_table(records: Iterable[Record], knob: str, path: Path | str) -> None:
    """A CSV file of the rows, six digits, that ``probcomp advise --runs`` reads."""
    columns = pilot_columns(records, knob)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values()):
        writer.writerow([f"{value:.6g}" for value in row])
    write_text(path, text.getvalue())


def table_name(records: Sequence[Record], density: float) -> str:
    """File name for the table of records that advice at a density was drawn from.

    Task and density for people; then a hash of which pilots these are, so that another campaign
    has another file and the same one, resumed, its own.
    """
    task = re.sub(r"[^\w.-]+", "-", str(records[0]["task"])).strip("-.") or "task"
    which = content_key({"pilots": sorted(record["key"] for record in records)})
    return f"{task}-density-{density:g}-{which[:8]}.csv"


def _mean(parts: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([part[name] for part in parts]))
