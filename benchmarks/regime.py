"""Measure the regime model on published tables and on a sweep of our own.

    PROBCOMP_DATA=/data python benchmarks/regime.py designs --count 20
    PROBCOMP_DATA=/data python benchmarks/regime.py loo
    PROBCOMP_DATA=/data python benchmarks/regime.py diagnosis
    python benchmarks/regime.py sweep --store DIR --seeds 0 1 2 3 4 5 6 7 8 9 10 11
    python benchmarks/regime.py sweep --store DIR --seeds 12 13 14 15 16 17
    python benchmarks/regime.py reference --count 60
    python benchmarks/regime.py reference --start 60 --count 60 --densities 0.04 0.055
    python benchmarks/regime.py reference --start 120 --count 60 --densities 0.04
    python benchmarks/regime.py digits --count 8 --campaigns 7
    PROBCOMP_DATA=/data python benchmarks/regime.py fashion-sweep --seeds 0 1 2 3 4 5 6 7
    PROBCOMP_DATA=/data python benchmarks/regime.py fashion-reference --count 36
    PROBCOMP_DATA=/data python benchmarks/regime.py fashion --campaigns 3

``designs``: decisions at every cell of the published grid from nine pilots drawn one to each of 3 x
3 strata. ``loo``: test error of each density from the runs at the others. ``diagnosis``: too cold
or too hot, on widths and data sizes left out. ``sweep``: run every pilot of the digits task, some
minutes a dense seed; seeds may be added by several runs, each of which writes its own record.
``reference``: replicates of every cell with other seeds, and the CPU time of each new one.
``digits``: advice from nine pilots, for one density or for all at once, judged on the reference.
``fashion``, with a sweep and a reference of its own: the same on a second task, whose knob is the
batch size, on which no part of the advice was tried.
Results go to ``benchmarks/results``.
"""

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

from _regime_diagnosis import diagnosis  # these lie beside this script
from _regime_digits import ADVISERS, RECORDED, digits, sweep
from _regime_fashion import fashion, fashion_reference, fashion_sweep
from _regime_fits import Fits
from _regime_grid import designs, leave_one_density_out
from _regime_reference import FIRST, reference

from probcomp.recipes.describe import machine

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run one benchmark and write its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = ("designs", "loo", "diagnosis", "sweep", "reference", "digits")
    what += ("fashion-sweep", "fashion-reference", "fashion")
    parser.add_argument("what", choices=what)
    parser.add_argument("--count", type=int, default=20, help="designs, or seeds of the reference")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: results/regime_WHAT.json")
    parser.add_argument("--store", type=Path, default=Path("probcomp-pilots"), help="of the sweep")
    parser.add_argument("--jobs", type=int, help="worker processes of the sweep")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="dense seeds of it")
    parser.add_argument("--densities", type=float, nargs="+", help="of the reference; default: all")
    parser.add_argument(
        "--campaigns", type=int, default=4, help="of digits or fashion, at each density"
    )
    parser.add_argument("--only", nargs="+", choices=ADVISERS, default=RECORDED, help="of digits")
    parser.add_argument("--fits", type=Path, help="keep draws here, to go on after a kill")
    options = parser.parse_args()
    if set(options.only) < set(RECORDED) and options.out is None:
        parser.error("--only leaves others out of the record: give it a file of its own by --out")
    import jax

    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    count, start, fits = options.count, options.start, Fits(options.fits)
    run = {
        "designs": lambda: designs(count, start, fits),
        "loo": lambda: leave_one_density_out(fits),
        "diagnosis": diagnosis,
        "sweep": lambda: sweep(options.store, options.jobs, options.seeds),
        "reference": lambda: reference(
            range(FIRST + start, FIRST + start + count), options.densities
        ),
        "digits": lambda: digits(count, start, fits, options.only, options.campaigns),
        "fashion-sweep": lambda: fashion_sweep(options.seeds),
        "fashion-reference": lambda: fashion_reference(
            range(FIRST + start, FIRST + start + count), options.densities
        ),
        "fashion": lambda: fashion(options.campaigns, fits),
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
    path = options.out or RESULTS / f"regime_{options.what.replace('-', '_')}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    printed = {name: value for name, value in result.items() if name != "each"}
    print(json.dumps(printed, indent=1))


if __name__ == "__main__":
    main()
