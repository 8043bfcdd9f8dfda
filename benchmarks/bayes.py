"""Bayesian compression methods side by side: error against the bytes of a real file.

Networks of the literature (LeNet-300-100, LeNet-5-Caffe, ResNet-20) on MNIST, Fashion-MNIST and
CIFAR-10 from a directory, or on the embedded digits without one. Every method starts from the same
dense network of a seed, and its result is quantised by the same rule, coded into a file, read back
bit for bit, and measured as read. Each finished run is one file named by its configuration: a run
that was stopped goes on where it was, and new methods join old records.

    probcomp bench bayes --network lenet-300-100 --data mnist --seeds 3
    probcomp bench bayes --quick
"""

import argparse
import hashlib
import json
import os
import sys
import time
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from _bayes_published import CAVEATS, published
from _bayes_report import couplings, fronts, picture, table
from _bayes_run import CODING_SAMPLES, FINER, TOLERANCE, execute
from _bayes_settings import EPOCHS, Epochs, dense, load, names_of, points

from probcomp.errors import ProbcompError
from probcomp.recipes.describe import machine
from probcomp.storage import read_json, write_json

VERSION = 1
"""Raised whenever records of before would not be comparable."""
RESULTS = Path(__file__).parent / "results" / "bayes.json"
RUNS = Path(__file__).parents[1] / "out" / "bayes"


def configuration(
    network: str, data: str, seed: int, method: str, label: str, budget: str | None, settings: Any
) -> dict[str, Any]:
    """What a run depends on; its name is the hash of this."""
    values = asdict(settings) if is_dataclass(settings) else settings  # type: ignore[arg-type]
    return {
        "version": VERSION,
        "network": network,
        "data": data,
        "seed": seed,
        "method": method,
        "label": label,
        "budget": budget,
        "settings": json.loads(json.dumps(values, default=str)),
    }


def key(config: dict[str, Any]) -> str:
    """Name of a run's record."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def run_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Do what is missing, and return all records that were asked for."""
    directory = options.data_dir or os.environ.get("PROBCOMP_DATA")
    directory = Path(directory) if directory else None
    names = options.data or (["mnist"] if directory else ["digits"])
    records = []
    for name in names:
        data = load(name, directory, options.quick)
        for network in options.network:
            epochs = Epochs(*options.epochs) if options.epochs else EPOCHS[network]
            for method, (label, budget, settings) in points(options.methods, options.points):
                made = settings(epochs.method, len(data.train[0]))
                for seed in range(options.seed, options.seed + options.seeds):
                    config = configuration(network, name, seed, method, label, budget, made)
                    config |= {"epochs": asdict(epochs), "samples": len(data.train[0])}
                    path = options.runs / f"{key(config)}.json"
                    if path.is_file():
                        records.append(read_json(path))
                        continue
                    model = dense(network, data, name, seed, epochs.dense, options.runs)
                    start = time.perf_counter()
                    try:
                        measured = execute(
                            network,
                            model,
                            data,
                            names_of(method),
                            budget,
                            made,
                            seed,
                            epochs.method,
                            options.runs / f"{key(config)}.checkpoint",
                        )
                    except ProbcompError as error:
                        measured = {"failed": f"{type(error).__name__}: {error}"}
                    record = {"config": config, **measured}
                    write_json(path, record)
                    records.append(record)
                    print(
                        f"{network} {name} {method} ({label}) seed {seed}: "
                        f"{words(record)}, {time.perf_counter() - start:.0f} s",
                        file=sys.stderr,
                        flush=True,
                    )
    return records


def collect(folder: Path) -> list[dict[str, Any]]:
    """The newest record of every network, data set, method, operating point and seed."""
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime):
        record = read_json(path)
        config = record["config"]
        names = ("network", "data", "method", "label", "seed")
        newest[tuple(config[name] for name in names)] = record
    return list(newest.values())


def words(record: dict[str, Any]) -> str:
    """A record in one line."""
    if "failed" in record:
        return record["failed"]
    coding = record["coding"]
    return (
        f"error {record['error']:.2f} % (dense {record['dense_error']:.2f}), kept "
        f"{record['sizes']}, weights {record['params_ratio']:.0f}x, MACs "
        f"{record['macs_ratio']:.1f}x, file {coding['bytes']} bytes "
        f"({coding['file_ratio']:.0f}x) at {coding['error']:.2f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--network", nargs="+", default=["lenet-300-100"], choices=list(EPOCHS))
    add("--data", nargs="+", help="mnist, fashion, cifar10 or digits")
    add("--data-dir", type=Path, help="directory of data sets; default: PROBCOMP_DATA")
    add("--methods", nargs="+", help="default: all that there are settings for")
    add("--points", nargs="+", help='operating points, such as "2 %%" or own; default: all')
    add("--epochs", nargs=2, type=int, metavar=("DENSE", "METHOD"), help="default: the network's")
    add("--seed", type=int, default=0, help="the first of the seeds")
    add("--seeds", type=int, default=3)
    add("--runs", type=Path, default=RUNS, help="directory of dense networks and records")
    add("--collect", action="store_true", help="report all newest records, run nothing")
    add("--quick", action="store_true", help="few samples and epochs, to test the script")
    add("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        options.seeds = 1
        options.methods = options.methods or ["turbo-vbi", "magnitude"]
        options.points, options.epochs = options.points or ["2 %"], options.epochs or [1, 1]
    records = collect(options.runs) if options.collect else run_all(options)
    done = [record for record in records if "failed" not in record]
    lines = table(done)
    write_json(
        options.out,
        {
            "command": "probcomp bench bayes " + " ".join(sys.argv[1:]),
            "machine": machine(),
            "torch": torch.__version__,
            "quantisation": {
                "tolerance_points": TOLERANCE,
                "finer_price": FINER,
                "training_samples": CODING_SAMPLES,
            },
            "epochs": {name: asdict(e) for name, e in EPOCHS.items()},
            "table": lines,
            "fronts": fronts(done),
            "couplings": couplings(done),
            "published": published(),
            "caveats": CAVEATS,
            "runs": records,
        },
    )
    if done:
        picture(done, options.out.with_suffix(".png"))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
