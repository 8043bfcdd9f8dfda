"""Seconds of ``probcomp advise`` on nine pilots of the published grid and on 144 cells.

    PROBCOMP_DATA=/data python benchmarks/regime_cost.py

The 144 cells are those of a spin glass with a bias, whose diagram has the same topology. Each
command is a new process: it imports, compiles, samples and writes its answer. The result goes to
``benchmarks/results/regime_cost.json``.
"""

import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from regime import RESULTS, grid, strata  # the script beside this one

from probcomp.recipes.describe import machine
from probcomp.regime.toys import sk_table

PROBCOMP = Path(sys.executable).with_name("probcomp")


def cost() -> dict[str, object]:
    """Wall and processor seconds of ``probcomp advise``, started as a user starts it."""
    pilots = grid().take(strata(grid(), 0))
    columns = {
        "epochs": pilots.settings[:, 0], "density": pilots.load, "test_error": pilots.error,
        "lmc": pilots.connectivity, "cka": pilots.similarity,
    }  # fmt: skip
    values = np.geomspace(0.5, 2.2, 12)
    out: dict[str, object] = {}
    for name, table, load in (
        ("9 pilots", columns, float(np.median(pilots.load))),
        ("144 cells", sk_table(values, values)[0], 1.0),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "runs.csv"
            with path.open("w", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(table)
                writer.writerows(zip(*table.values()))
            command = [str(PROBCOMP), "advise", "--runs", str(path)]
            began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(
                [*command, "--density", f"{load:g}", "--json"], check=True, capture_output=True
            )
            seconds, after = (
                time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
            )  # fmt: skip
            out[name] = {
                "wall_seconds": seconds,
                "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
                "fit": json.loads(done.stdout)["convergence"],
            }
    return out


def main() -> None:
    """Measure and write."""
    result = {"command": "python benchmarks/regime_cost.py", "machine": machine(), "result": cost()}
    (RESULTS / "regime_cost.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["result"], indent=1))


if __name__ == "__main__":
    main()
