"""Units removed after training, without tuning: Turbo-VBI beside four published baselines.

Four networks (the MiniLM sentence encoder, ResNet-20 and ResNet-32 for CIFAR-10, a small
character-level Llama trained here), the same calibration samples for every method, and 30 % or 50 %
of the prunable parameters removed. Held-out loss increases are compared in pairs over calibration
seeds. Batch norms are re-estimated where that lowers the loss between halves of the calibration
samples, for every method alike. Baselines are run with each of their allocations on the first seed;
the one that is best on the held-out samples goes on, and is what ours is compared with.

Ablations separate the choice of units from the refit. "OBS absolute, our refit" has the baseline's
units and our refit: less OBS it is what the refit is worth, and ours less it what our choice is.
"ours, outputs not scaled" lacks the factor on a classifier's outputs, which changes its loss and no
decision; "our scale" are baselines with that factor.
"ours, no refit" is the choice alone. "ours, no correlations" judges each unit as if the others
could not make up for it, with the same tempering and refit.

    PROBCOMP_DATA=... probcomp bench post_training --seeds 3
    PROBCOMP_DATA=... probcomp bench post_training --seeds 1 --networks minilm --cost 3
"""

import argparse
import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _post_cost import cost
from _post_networks import Network, cache_directory, language_model, minilm, resnet
from _post_predictions import predictions
from _post_rows import (
    Prepared,
    Row,
    forward_seconds,
    has_batch_norm,
    obs_with_our_refit,
    run_row,
    with_our_scale,
)

from probcomp.allocation import Budget
from probcomp.errors import InputError, ProbcompError
from probcomp.evidence.fisher import Categorical
from probcomp.recipes.calibrating import CalibrationConfig, calibrated
from probcomp.recipes.describe import machine
from probcomp.recipes.flap import FlapConfig
from probcomp.recipes.magnitude_units import MagnitudeUnitsConfig
from probcomp.recipes.obs import ObsConfig
from probcomp.recipes.post_training import PostConfig
from probcomp.recipes.wanda_sp import WandaConfig
from probcomp.storage import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "post_training.json"
OURS = "turbo-vbi-post"
NETWORKS = ("minilm", "resnet20", "resnet32", "char-llama")
REMOVED = (0.3, 0.5)
SIZES = {
    "minilm": (128, 128, 32),
    "resnet20": (256, 4000, 64),
    "resnet32": (256, 4000, 64),
    "char-llama": (256, 320, 32),
}
"""Calibration samples, held-out samples, and random masks whose loss is predicted: half of them fit
the law, the others judge it."""
QUICK = {
    "minilm": (16, 16, 4),
    "resnet20": (64, 200, 4),
    "resnet32": (64, 200, 4),
    "char-llama": (32, 32, 4),
}


def baselines() -> list[Row]:
    return [
        Row("OBS, absolute", "obs", ObsConfig()),
        Row("FLAP, standardised", "flap", FlapConfig()),
        Row("Wanda-sp, uniform", "wanda-sp", WandaConfig()),
        Row("magnitude, uniform", "magnitude-units"),
        Row("OBS, relative", "obs", ObsConfig(allocation="relative")),
        Row("OBS, uniform", "obs", ObsConfig(allocation="uniform")),
        Row("FLAP, uniform", "flap", FlapConfig(allocation="uniform")),
        Row("Wanda-sp, standardised", "wanda-sp", WandaConfig(allocation="standardised")),
        Row("magnitude, global", "magnitude-units", MagnitudeUnitsConfig(allocation="global")),
    ]


def load(name: str, options: argparse.Namespace) -> Network:
    if not options.data:
        raise InputError("set PROBCOMP_DATA, or give --data: the directory of texts and weights")
    data, held = Path(options.data), sizes(name, options)[1]
    if name == "minilm":
        return minilm(data, options.model_dir, held)
    if name.startswith("resnet"):
        return resnet(data, held, int(name.removeprefix("resnet")))
    epochs = 1 if options.quick else options.epochs
    return language_model(data, options.cache, held, options.seed, epochs)


def sizes(name: str, options: argparse.Namespace) -> tuple[int, int, int]:
    return (QUICK if options.quick else SIZES)[name]


class Record:
    """The result file; written after each row, and read again when a run goes on.

    Networks that a run leaves out keep their rows, and notes stay. Each network names the command
    that last added a row to it, and beside it (``again``) the one that last ran named rows anew.
    """

    def __init__(self, path: Path, settings: dict[str, Any], command: str) -> None:
        self.path, self.command, self.named = path, command, " --rows " in command
        self.value: dict[str, Any] = {
            "command": command,
            "machine": machine(),
            "torch": torch.__version__,
            "settings": dict(settings),
            "networks": {},
            "rows": [],
            "predictions": [],
            "cost": {},
        }
        if not path.is_file():
            return
        old = read_json(path)
        same = {n for n, value in settings.items() if old.get("settings", {}).get(n) == value}
        self.value["cost"] = old.get("cost", {})
        if self.named:
            self.value["command"] = old["command"]
        if "notes" in old:
            self.value["notes"] = old["notes"]
        for part in ("rows", "predictions"):
            self.value[part] = [row for row in old[part] if row["network"] in same]
        self.value["networks"] = {n: v for n, v in old["networks"].items() if n in same}

    def has(self, part: str, **keys: Any) -> bool:
        return any(all(row.get(k) == v for k, v in keys.items()) for row in self.value[part])

    def add(self, part: str, row: dict[str, Any]) -> None:
        """One more row, or another in the place of the one that was there."""
        keys = ("network", "seed", "removed", "row")
        same = [all(old.get(k) == row.get(k) for k in keys) for old in self.value[part]]
        if any(same):
            self.value[part][same.index(True)] = row
        else:
            self.value[part].append(row)
        facts = self.value["networks"].setdefault(row["network"], {})
        facts["again" if self.named else "command"] = self.command
        self.write()

    def describe(self, network: str, facts: dict[str, Any]) -> None:
        """Facts of a network, beside the command that its rows are of."""
        old = self.value["networks"].get(network, {})
        self.value["networks"][network] = {
            k: v for k, v in old.items() if k in ("command", "again")
        } | facts

    def write(self) -> None:
        self.value["summary"] = summary(self.value["rows"])
        write_json(self.path, self.value)


def measure(
    prepared: Prepared, seed: int, options: argparse.Namespace, record: Record, rows: list[Row]
) -> None:
    """All rows that are not there yet, for one network and one calibration subset."""
    name, first = prepared.network.name, seed == options.seed
    likelihood = prepared.network.likelihood
    if not isinstance(likelihood, Categorical) or likelihood.unit != "sample":
        rows = [row for row in rows if not row.classes]
    todo = [
        (removed, row)
        for removed in REMOVED
        for row in (rows if first else strongest(rows, record, name, removed, options.seed))
        if options.rows or not has_row(record, name, seed, removed, row)
    ]
    points = first and not options.rows and not record.has("predictions", network=name, seed=seed)
    if not todo and not points:
        return
    data = prepared.network.calibration(sizes(name, options)[0], seed)
    forward = forward_seconds(prepared, data)
    if any(shares_pass(row) for _, row in todo):
        job = prepared.job(data, Budget(params=0.5), None, seed)
        with calibrated(job, CalibrationConfig()) as seen:
            for removed, row in todo:
                one(prepared, with_pass(row, seen.statistics), data, removed, seed, forward, record)
    else:
        for removed, row in todo:
            one(prepared, row, data, removed, seed, forward, record)
    if points:
        found = predictions(prepared, data, seed, masks=sizes(name, options)[2])
        record.add("predictions", {"network": name, "seed": seed, **found})


def has_row(record: Record, network: str, seed: int, removed: float, row: Row) -> bool:
    return record.has("rows", network=network, seed=seed, removed=removed, row=row.name)


def strongest(
    rows: list[Row], record: Record, network: str, removed: float, seed: int
) -> list[Row]:
    """Each method's best allocation on the first seed, and rows of classifiers; for all seeds."""
    loss = {
        r["row"]: r["loss_increase"]
        for r in record.value["rows"]
        if (r["network"], r["removed"], r["seed"]) == (network, removed, seed)
    }
    best: dict[str, Row] = {}
    for row in (r for r in rows if r.name in loss and not r.ablation):
        if row.method not in best or loss[row.name] < loss[best[row.method].name]:
            best[row.method] = row
    return [*best.values(), *(row for row in rows if row.classes)]


def describe_network(prepared: Prepared, options: argparse.Namespace) -> dict[str, Any]:
    _, dense, prunable = prepared.budget(0.5)
    facts: dict[str, Any] = {
        **prepared.network.about,
        "dense": prepared.dense,
        "parameters": dense,
        "prunable": prunable,
        "loss_unit": prepared.network.likelihood.unit,
        "calibration_samples": sizes(prepared.network.name, options)[0],
    }
    if has_batch_norm(prepared.network.model):
        facts["batch_norm"] = "re-estimated where that helps between halves of the calibration set"
    return facts


def shares_pass(row: Row) -> bool:
    return isinstance(row.config, CalibrationConfig)


def with_pass(row: Row, seen: Any) -> Row:
    """Baselines share one calibration pass over the same samples."""
    return replace(row, config=replace(row.config, statistics=seen)) if shares_pass(row) else row


def one(
    prepared: Prepared,
    row: Row,
    data: tuple[torch.Tensor, ...],
    removed: float,
    seed: int,
    forward: float,
    record: Record,
) -> None:
    figures, _ = run_row(prepared, row, data, removed, seed)
    figures["shared_pass"] = shares_pass(row)
    figures["forward_seconds"] = forward
    record.add("rows", figures)
    text = f"{figures['network']:11s} seed {seed} -{removed:.0%} {row.name:28s}"
    rest = {k: v for k, v in figures.items() if k in ("cosine", "spearman", "accuracy")}
    tail = "  ".join(f"{k} {v:.4f}" for k, v in rest.items())
    print(f"{text} loss +{figures['loss_increase']:.5f}  {tail}", file=sys.stderr, flush=True)


def groups(rows: list[dict[str, Any]]) -> Iterator[tuple[str, float, dict[str, dict[int, float]]]]:
    """Network, share removed, and row name to loss increase by seed."""
    for network in NETWORKS:
        for removed in REMOVED:
            found: dict[str, dict[int, float]] = {}
            for r in rows:
                if r["network"] == network and r["removed"] == removed:
                    found.setdefault(r["row"], {})[r["seed"]] = r["loss_increase"]
            if found:
                yield network, removed, found


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each network and budget: mean loss increases, and what each other loses more than ours.

    ``more_than_ours`` is the mean over seeds that both have, ``more_than_ours_least`` the least of
    several such pairs.
    """
    lines = []
    for network, removed, found in groups(rows):
        ours = found.get(OURS, {})
        for name, by_seed in found.items():
            line: dict[str, Any] = {
                "network": network,
                "removed": removed,
                "row": name,
                "loss_increase": statistics.mean(by_seed.values()),
                "seeds": len(by_seed),
            }
            both = sorted(set(ours) & set(by_seed))
            if name != OURS and both:
                pairs = [by_seed[s] - ours[s] for s in both]
                line["more_than_ours"] = statistics.mean(pairs)
                if len(pairs) > 1:  # one pair has no spread
                    line["more_than_ours_least"] = min(pairs)
            lines.append(line)
    return lines


def table(lines: list[dict[str, Any]]) -> str:
    text = []
    for line in lines:
        pair = line.get("more_than_ours")
        beside = "" if pair is None else f"  ours is lower by {pair:+.5f}"
        text.append(
            f"{line['network']:11s} -{line['removed']:.0%}  {line['row']:28s} loss "
            f"+{line['loss_increase']:.5f}{beside}"
        )
    return "\n".join(text)


def our_rows() -> list[Row]:
    """Ours, and what each of its parts is worth."""
    return [
        Row(OURS, OURS),
        Row("ours, all outputs alike", OURS, PostConfig(probes=0), ablation=True),
        Row("ours, predictions untempered", OURS, PostConfig(rounds=0), ablation=True),
        Row("ours, no correlations", OURS, PostConfig(correlations=False), ablation=True),
        Row("ours, dense refit", OURS, PostConfig(refit="dense"), ablation=True),
        Row("ours, no residual target", OURS, PostConfig(residual=False), ablation=True),
        Row("ours, no refit", OURS, PostConfig(refit="none"), ablation=True),
        Row("OBS absolute, our refit", "obs", ablation=True, run=obs_with_our_refit),
        Row("ours, outputs not scaled", OURS, PostConfig(scaled=False), True, classes=True),
        *(
            Row(f"{name}, our scale", method, None, True, with_our_scale(method, settings), True)
            for name, method, settings in (
                ("OBS absolute", "obs", ObsConfig()),
                ("FLAP standardised", "flap", FlapConfig()),
            )
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="calibration subsets")
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--data", default=os.environ.get("PROBCOMP_DATA"))
    parser.add_argument("--model-dir", type=Path, help="directory of the encoder's weights")
    parser.add_argument("--cache", type=Path, default=cache_directory())
    parser.add_argument("--epochs", type=int, default=12, help="of the language model's training")
    parser.add_argument(
        "--no-ablations", action="store_true", help="the comparison and the factor alone"
    )
    parser.add_argument("--rows", nargs="+", help="only these, even where they are there already")
    parser.add_argument("--cost", type=int, default=0, metavar="N", help="only time ours, N times")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    command = f"probcomp bench post_training --seed {options.seed} --seeds {options.seeds}"
    if set(options.networks) != set(NETWORKS):
        command += f" --networks {' '.join(options.networks)}"
    command += " --no-ablations" * options.no_ablations + " --quick" * options.quick
    settings = {n: {"sizes": list(sizes(n, options)[:2]), "seed": options.seed} for n in NETWORKS}
    settings["char-llama"]["epochs"] = 1 if options.quick else options.epochs
    record = Record(options.out, settings, command)
    rows = [*our_rows(), *baselines()]
    if options.no_ablations:
        rows = [row for row in rows if row.classes or not row.ablation]
    if options.rows:
        unknown = set(options.rows) - {row.name for row in rows}
        if unknown:
            parser.error(f"no rows are named {', '.join(sorted(unknown))}")
        rows = [row for row in rows if row.name in options.rows]
        command += " --rows " + " ".join(f'"{name}"' for name in options.rows)
    networks: dict[str, Prepared] = {}
    try:
        for seed in range(options.seed, options.seed + options.seeds):
            for name in options.networks:
                if name not in networks:
                    networks[name] = Prepared.of(load(name, options))
                    record.describe(name, describe_network(networks[name], options))
                if options.cost:
                    data = networks[name].network.calibration(sizes(name, options)[0], seed)
                    found = [
                        cost(networks[name], data, removed, seed, repeats=options.cost)
                        for removed in REMOVED
                    ]
                    record.value["cost"][name] = found
                    print(name, [(line["removed"], line["forwards"]) for line in found])
                else:
                    measure(networks[name], seed, options, record, rows)
    except ProbcompError as error:
        parser.error(str(error))
    record.write()
    print(table(record.value["summary"]))


if __name__ == "__main__":
    main()
