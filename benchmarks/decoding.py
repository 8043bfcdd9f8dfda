"""Decoders on the embedded model and on exact oracles: quality against forwards.

    probcomp bench decoding --models DIR DIR DIR --out benchmarks/results/decoding.json

Each DIR holds one training seed of `probcomp.decoding.small.train`, and gets a calibration on dev
prompts if it has none. Every published decoder has one knob, chosen on other dev prompts with the
first model: once for the most right answers (``decoders``), and once for as many forwards as ours
takes (``at_equal_forwards``). What is reported comes from test prompts. Published decoders get a
canvas of 32, the longest the models know; ours finds its own. Quality is exact match (``add``,
``json``) and, for draws at temperature 1 (``record``), validity beside the distance to the known
law of lengths. The reference writes one token a forward on a canvas that ends where the true
answer does, and which token comes next does not depend on what is drawn (``serial`` takes the
surest draw first, which is no draw from the model's law). Differences are paired, with a bootstrap
interval. ``headline`` holds ours and the reference on four times as many prompts; ``ledger`` judges
thousands of answers; ``canvas`` says on dev prompts what a smaller canvas to begin with buys and
costs. ``--only`` runs some sections and keeps the others of the file; ``ours`` (not run by itself)
puts new rows of ours into the tables of all decoders that a file has.
"""

import argparse
import platform
from pathlib import Path

import torch
from _decoding_beliefs import TOKENIZER, ends, ledger
from _decoding_compare import canvases, chosen, compare, headline, ours_again, tried, winners
from _decoding_oracles import oracles
from _decoding_overhead import overhead

from probcomp.decoding import calibrate
from probcomp.decoding.adapters.resolve import as_adapter
from probcomp.decoding.calibrating.record import FILE
from probcomp.decoding.small.load import FOLDER, load_small
from probcomp.decoding.small.tasks import TASKS, make_examples
from probcomp.storage import read_json, write_json

SECTIONS = ("overhead", "ends", "ledger", "canvas", "oracles", "headline", "decoders")
DEV = 4000  # dev answers a task for a calibration: sums are wrong once in hundreds
MORE = 4  # times the prompts for the headline, which decodes with one decoder
JUDGED = 6000  # prompts of the ledger: answers that are right in 99 of 100 say little each


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, nargs="+", default=[FOLDER])
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--only", nargs="+", choices=(*SECTIONS, "ours"), default=SECTIONS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    as_adapter(None, None)
    dev = [(e.prompt, e.answer) for task in TASKS for e in make_examples(task, DEV, 301, "dev")]
    for folder in options.models:
        if not (folder / FILE).is_file():
            calibrate(load_small(folder), TOKENIZER, examples=dev, out=folder)
    result = read_json(options.out) if options.out and options.out.is_file() else {}
    result |= {
        "command": f"probcomp bench decoding --models DIR DIR DIR --count {options.count}",
        "machine": f"{platform.processor() or platform.machine()}, one thread, shared machine",
        "torch": torch.__version__,
        "models": [read_json(folder / "training.json") for folder in options.models],
    }
    for training in result["models"]:
        training.pop("curve")
    count = options.count
    if "overhead" in options.only:
        result["overhead"] = overhead()
    if "ends" in options.only:
        result["ends"] = {"prompts": count, **ends(options.models, count)}
    if "ledger" in options.only:
        # A record has a wrong commit or more: few show what thousands of sums do.
        counts = {task: MORE * count if task == "record" else JUDGED for task in TASKS}
        result["ledger"] = ledger(options.models, counts)
    if "canvas" in options.only:
        result["canvas"] = canvases(options.models[0])
    if "headline" in options.only:
        result["headline_prompts_per_task"] = MORE * count
        result["headline"] = headline(options.models, MORE * count)
    if "oracles" in options.only:
        result["oracles"] = oracles()
    if "decoders" in options.only:
        known: dict = {}
        grid = tried(load_small(options.models[0]))
        result["prompts_per_task"] = count
        result["knobs"] = chosen(grid)
        result["decoders"] = compare(options.models, count, result["knobs"], known)
        ours = {r["task"]: r["forwards"] for r in result["decoders"] if r["decoder"] == "bayes"}
        result["knobs_at_equal_forwards"] = chosen(grid, ours)
        result["at_equal_forwards"] = compare(
            options.models, count, result["knobs_at_equal_forwards"], known
        )
    if "ours" in options.only:
        if result.get("prompts_per_task") != count:
            parser.error(f"the tables of {options.out} are not of --count {count}")
        ours_again(options.models, count, [result["decoders"], result["at_equal_forwards"]])
    if "decoders" in result:
        result["winners"] = winners(result["decoders"])
    for name in options.only:
        rows = result["winners" if name == "ours" else name]
        for row in rows if isinstance(rows, list) else [rows]:
            print(row)
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
