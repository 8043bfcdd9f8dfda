"""Whole experts removed after training: measured removals beside what routers say of experts.

A small Mixtral is trained on characters (`_experts_network.py`), then a quarter or a half of its
experts goes, without any refit, by our order and price, by usage counts, by REAP's gate-weighted
norms, or at random: the same number in each layer, and for scores also by one threshold for all
layers. Losses are those on held-out text; calibration samples are drawn anew with each seed.

"ours, as many in each layer" has our order and the baselines' counts: what is between it and "ours"
is the division over layers. "ours, all kinds" may also remove neurons and KV groups, with a refit,
down to as many parameters as are left without those experts; of the first seed alone.

    PROBCOMP_DATA=... probcomp bench experts --seeds 3
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _experts_baselines import lowest, usage
from _experts_network import mixture
from _post_networks import cache_directory
from _post_rows import Prepared, forward_seconds
from torch import Tensor

from probcomp.allocation import Budget
from probcomp.errors import InputError, ProbcompError
from probcomp.recipes.compress import removable
from probcomp.recipes.describe import machine
from probcomp.recipes.job import Job, Outcome
from probcomp.recipes.methods import METHODS
from probcomp.recipes.post_config import PostConfig, parts_of
from probcomp.recipes.post_experts import found_routers, judge_experts
from probcomp.recipes.post_units import Judged
from probcomp.recipes.units import Spending
from probcomp.storage import read_json, write_json
from probcomp.structure import silence

RESULTS = Path(__file__).parent / "results" / "experts.json"
OURS = "turbo-vbi-post"
REMOVED = (0.25, 0.5)
SAMPLES, HELD = 128, 320
ROWS = (
    "ours",
    "ours, as many in each layer",
    "usage, as many in each layer",
    "usage, one threshold",
    "REAP, as many in each layer",
    "REAP, one threshold",
    "random, as many in each layer",
    "ours, all kinds",
)


class Case:
    """One draw of calibration samples, and what is found on them."""

    def __init__(self, prepared: Prepared, seed: int) -> None:
        self.prepared, self.seed = prepared, seed
        self.data = prepared.network.calibration(SAMPLES, seed)
        self.axes = removable(prepared.structure, ("expert",))
        self.borrowed = 0.0
        self._known: dict[str, tuple[Any, float]] = {}

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """What was found before is not found again; the seconds that it took are ``borrowed``."""
        if name in self._known:
            self.borrowed += self._known[name][1]
        else:
            start = time.process_time()
            value = find()
            self._known[name] = (value, time.process_time() - start)
        return self._known[name][0]

    def job(self, removed: int, kinds: tuple[str, ...]) -> Job:
        """A job that may keep as many parameters as are left without some experts."""
        job = self.prepared.job(self.data, Budget(params=1.0), PostConfig(), self.seed)
        job = replace(job, units=removable(self.prepared.structure, kinds))
        spending = Spending.of(job, self.axes)
        left = spending.dense - removed * spending.unit_cost(self.axes[0])
        return replace(job, budget=Budget(params=float(int(left))))

    def scores(self, which: int) -> dict[str, Tensor]:
        found = self.once("usage", lambda: usage(self.prepared.network, self.data))
        return {a.name: s for a, s in zip(self.axes, found[which], strict=True)}

    def ours(self, removed: int, kinds: tuple[str, ...]) -> Outcome:
        return METHODS[OURS].run(self.job(removed, kinds))

    def our_order(self, removed: int) -> dict[str, Tensor]:
        job = self.job(removed, ("expert",))
        axes, routers, _ = found_routers(job)
        config = PostConfig()
        likelihood = self.prepared.network.likelihood
        samples = parts_of(self.data, config, likelihood)[0]
        judged: dict[str, Judged] = self.once(
            "order",
            lambda: judge_experts(
                job, config, job.task, likelihood, axes, routers, samples, lambda text: None
            ),
        )
        return {n: j.keep(removed // len(axes)) for n, j in judged.items()}

    def at_random(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        return {a.name: torch.rand(a.size, generator=generator) for a in self.axes}


def run_row(case: Case, row: str, share: float) -> dict[str, Any]:
    """Decide, and measure on held-out text."""
    prepared = case.prepared
    removed = round(share * sum(a.size for a in case.axes))
    figures: dict[str, Any] = {"row": row, "removed": share, "experts": removed, "seed": case.seed}
    start, case.borrowed = time.process_time(), 0.0
    who, _, how = row.partition(", ")
    model = prepared.network.model
    if row in ("ours", "ours, all kinds"):
        kinds = METHODS[OURS].kinds if how else ("expert",)
        outcome = case.ours(removed, kinds)
        keep, model = dict(outcome.keep), outcome.model
        assert outcome.forecast is not None
        figures["forecast"] = outcome.forecast.increase
    elif who == "ours":
        keep = case.our_order(removed)
    else:
        scores = case.at_random() if who == "random" else case.scores(int(who == "REAP"))
        everywhere = how == "as many in each layer"
        keep = lowest(case.axes, scores, removed, everywhere=everywhere)
    figures["seconds"] = time.process_time() - start + case.borrowed
    figures["kept"] = {name: int(k.sum()) for name, k in keep.items()}
    measured = prepared.network.measure(silence(prepared.structure, model, keep))
    return figures | measured | {"loss_increase": measured["loss"] - prepared.dense["loss"]}


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["loss increase on held-out text, nats a character: mean (least to most) over seeds"]
    for share in sorted({r["removed"] for r in rows}):
        lines.append(f"{share:.0%} of the experts removed")
        for name in ROWS:
            found = [r["loss_increase"] for r in rows if r["row"] == name and r["removed"] == share]
            if found:
                mean = statistics.fmean(found)
                lines.append(f"  {name:32s} {mean:8.4f}  ({min(found):.4f} to {max(found):.4f})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default=os.environ.get("PROBCOMP_DATA"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--cache", type=Path, default=cache_directory())
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not options.data:
        raise InputError("set PROBCOMP_DATA, or give --data: the directory of texts")
    torch.set_num_threads(1)
    network = mixture(Path(options.data), options.cache, HELD, 0, options.epochs)
    prepared = Prepared.of(network)
    record: dict[str, Any] = {
        "command": f"probcomp bench experts --seeds {options.seeds}",
        "machine": machine(),
        "torch": torch.__version__,
        "network": network.about | {"dense": prepared.dense},
        "samples": SAMPLES,
        "forward_seconds": forward_seconds(prepared, network.calibration(SAMPLES, 0)),
        "rows": [],
    }
    if options.out.is_file():
        old = read_json(options.out)
        if old["network"] == record["network"] and old["samples"] == SAMPLES:
            record["rows"] = old["rows"]
    cases = [Case(prepared, seed) for seed in range(options.seeds)]
    for row in ROWS:
        for case in cases:
            for share in REMOVED:
                seed = case.seed
                if row == "ours, all kinds" and seed:
                    continue
                key = {"row": row, "removed": share, "seed": seed}
                if any(all(r[k] == v for k, v in key.items()) for r in record["rows"]):
                    continue
                found = run_row(case, row, share)
                record["rows"].append(found)
                write_json(options.out, record)
                print(f"{row}, {share:.0%}, seed {seed}: {found['loss_increase']:.4f}", flush=True)
    print(table(record["rows"]))


if __name__ == "__main__":
    try:
        main()
    except ProbcompError as error:
        sys.exit(f"error: {error}")
