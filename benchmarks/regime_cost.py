"""Seconds of ``probcomp advise``: on nine pilots, on 144 cells, and with pilots that it runs.

    PROBCOMP_DATA=/data python benchmarks/regime_cost.py
    python benchmarks/regime_cost.py --only pilots

The nine pilots are of the published grid; the 144 cells are those of a spin glass with a bias,
whose diagram has the same topology; the pilots that are run are nine of the embedded digits task,
four dense seeds and two retrainings each, into a fresh store. Each command is a new process: it
imports, compiles, samples and writes its answer. Results go to
``benchmarks/results/regime_cost.json``; what is not measured anew is kept there.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from probcomp.recipes.describe import machine
from probcomp.regime.toys import sk_table

RESULTS = Path(__file__).parent / "results"
PROBCOMP = Path(sys.executable).with_name("probcomp")
WHAT = ("runs", "cells", "pilots")


def timed(arguments: list[str]) -> dict[str, object]:
    """Wall and processor seconds of ``probcomp advise``, started as a user starts it."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [str(PROBCOMP), "advise", *arguments, "--json"],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "arguments": " ".join(a if "/" not in a else Path(a).name for a in arguments),
        "wall_seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "fit": json.loads(done.stdout)["convergence"],
    }


def on_a_table(columns: Mapping[str, Any], load: float) -> dict[str, object]:
    """``probcomp advise --runs`` on columns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values()))
        return timed(["--runs", str(path), "--density", f"{load:g}"])


def nine_runs() -> dict[str, object]:
    """Nine pilots of the published grid."""
    from _regime_grid import grid, strata  # beside this script

    pilots = grid().take(strata(grid(), 0))
    columns = {
        "epochs": pilots.settings[:, 0], "density": pilots.load, "test_error": pilots.error,
        "lmc": pilots.connectivity, "cka": pilots.similarity,
    }  # fmt: skip
    return on_a_table(columns, float(np.median(pilots.load)))


def many_cells() -> dict[str, object]:
    """144 cells of a spin glass."""
    values = np.geomspace(0.5, 2.2, 12)
    return on_a_table(sk_table(values, values)[0], 1.0)


def nine_pilots() -> dict[str, object]:
    """``probcomp advise --task digits --pilots 9`` into a fresh store."""
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "fresh-store")
        return timed(["--task", "digits", "--density", "0.08", "--pilots", "9", "--store", store])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=WHAT, nargs="+", default=list(WHAT))
    parser.add_argument("--out", type=Path, default=RESULTS / "regime_cost.json")
    options = parser.parse_args()
    measured = {
        "runs": ("9 pilots", nine_runs),
        "cells": ("144 cells", many_cells),
        "pilots": ("9 pilots of digits, run", nine_pilots),
    }
    result = json.loads(options.out.read_text())["result"] if options.out.is_file() else {}
    for what in options.only:
        name, measure = measured[what]
        result[name] = measure()
        print(name, result[name])
    record = {
        "command": "python benchmarks/regime_cost.py",
        "machine": machine(),
        "result": result,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
