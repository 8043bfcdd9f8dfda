"""Every decoder on the embedded tasks, for `benchmarks/decoding.py`: quality against forwards."""

import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path

import torch

from probcomp.decoding import decode, load_calibration, presets
from probcomp.decoding.small.load import load_small
from probcomp.decoding.small.tasks import (
    TASKS,
    is_valid,
    is_well_formed,
    make_examples,
    record_length_law,
)
from probcomp.decoding.small.tokenizer import CharacterTokenizer

CANVAS = 32
TUNED = 20  # dev prompts a task on which a knob is chosen
SEED = 1
REFERENCE = "one_by_one@true_length"
THRESHOLDS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
KNOBS: dict[str, tuple[str, tuple[float, ...]]] = {
    "bayes": ("gamma", (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)),  # what moves it when drawing
    "fixed": ("threshold", THRESHOLDS),
    "factor": ("factor", (0.5, 1.0, 2.0, 4.0, 8.0)),
    "eb": ("gamma", (0.05, 0.1, 0.35, 1.0, 3.0)),
    "adablock": ("threshold", THRESHOLDS),
    "daedal": ("threshold", THRESHOLDS),
    "rho_eos": ("threshold", THRESHOLDS),
    "klass": ("threshold", (0.2, 0.4, 0.6, 0.8, 0.9)),
    "wino": ("below", (0.5, 0.7, 0.8, 0.9)),
    "dystruct": ("error_step", (0.03, 0.1, 0.3, 1.0, 3.0)),
}
TOKENIZER = CharacterTokenizer()


def variants():
    """(name, options of `decode`) of every decoder that is compared."""
    comma = ((TOKENIZER.encode(",")[0], 1.0),)
    yield "bayes", {}
    for name in presets:
        if name in ("bayes", "llada"):  # llada at 32 steps on 32 positions is serial
            continue
        options = {"preset": name, "max_new_tokens": CANVAS, "delimiters": comma}
        if presets[name].sizing != "none":
            options["initial_length"] = 16
        yield name, options
        if name == "fixed":
            yield f"{name}+stop", {**options, "stop": "eos"}


def sampled(task: str) -> dict[str, float]:
    """Records are drawn: their prompt fixes neither length nor content."""
    return {"temperature": 1.0} if task == "record" else {}


def tried(model) -> dict[str, dict[str, dict[float, tuple[float, float]]]]:
    """What each value of each knob gives on dev prompts: task -> decoder -> value -> (right,
    forwards), both means."""
    found: dict = {}
    for task in TASKS:
        examples = make_examples(task, TUNED, 401, "dev")
        prompts = [example.prompt for example in examples]
        for name, options in variants():
            if name not in KNOBS or (name == "bayes" and task != "record"):
                continue
            knob, values = KNOBS[name]
            for value in values:
                output = decode(
                    model,
                    TOKENIZER,
                    prompt=prompts,
                    seed=SEED,
                    **{**options, knob: value},
                    **sampled(task),
                )
                right = sum(is_valid(e, t) for e, t in zip(examples, output.texts)) / TUNED
                at = found.setdefault(task, {}).setdefault(name, {})
                at[value] = (right, sum(output.nfe) / TUNED)
    return found


def chosen(dev, at: dict[str, float] | None = None) -> dict[str, dict[str, float]]:
    """Knobs by task and decoder: most right on dev prompts, then fewest forwards; or with ``at``,
    forwards a task, the value that comes nearest to them (ours keeps its calibration)."""
    found: dict[str, dict[str, float]] = {}
    for task, decoders in dev.items():
        for name, values in decoders.items():
            if name == "bayes":
                continue
            if at is None:
                best = max(values, key=lambda v: (values[v][0], -values[v][1]))
            else:
                best = min(values, key=lambda v: (abs(values[v][1] - at[task]), -values[v][0]))
            found.setdefault(task, {})[name] = best
    return found


def at_true_length(model, examples, **options):
    """One token a forward on a canvas that ends with a visible EOS behind the true length:
    (answers, forwards)."""
    end, mask = TOKENIZER.eos_token_id, TOKENIZER.mask_token_id
    rows = [[*TOKENIZER.encode(e.prompt), *[mask] * len(e.answer), end] for e in examples]
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), TOKENIZER.pad_token_id)
    keys = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        keys[i, width - len(row) :] = 1
    output = decode(
        model, TOKENIZER, input_ids=ids, attention_mask=keys, calibration=False, **options
    )
    return [TOKENIZER.decode(answer) for answer in output.answers], output.nfe


def interval(difference: list[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean and a paired 95 % bootstrap interval."""
    rng, n = random.Random(seed), len(difference)
    means = sorted(sum(rng.choices(difference, k=n)) / n for _ in range(1000))
    return sum(difference) / n, means[25], means[974]


def compare(
    models: list[Path], count: int, knobs: dict[str, dict[str, float]], known: dict
) -> list[dict]:
    """One row per task and decoder, over all models; ``known`` keeps what was run."""
    rows = []
    for task in TASKS:
        examples = make_examples(task, count, 101, "test")
        scores = scores_of(task, examples, models, knobs[task], known)
        base = scores[REFERENCE]
        found = [summary(task, name, entry, base, models) for name, entry in scores.items()]
        mark_front([row for row in found if "@" not in row["decoder"]])
        rows += found
    return rows


def ours_again(models: list[Path], count: int, tables: list[list[dict]]) -> None:
    """Put new rows of ours into tables of `compare`, made of the same prompts and models: what a
    calibration changes. (Knobs at equal forwards stay those nearest to our forwards of before.)"""
    for task in TASKS:
        examples = make_examples(task, count, 101, "test")
        scores = scores_of(task, examples, models, {}, {}, [("bayes", {})])
        row = summary(task, "bayes", scores["bayes"], scores[REFERENCE], models)
        for table in tables:
            at = next(
                i for i, r in enumerate(table) if (r["task"], r["decoder"]) == (task, "bayes")
            )
            table[at] = dict(row)
            mark_front([r for r in table if r["task"] == task and "@" not in r["decoder"]])


def headline(models: list[Path], count: int) -> list[dict]:
    """Ours against one token at a time alone, on more prompts than all decoders can be run on."""
    rows = []
    for task in TASKS:
        examples = make_examples(task, count, 109, "test")
        scores = scores_of(task, examples, models, {}, {}, [("bayes", {})], cleaned=True)
        base = scores[REFERENCE]
        rows += [summary(task, name, entry, base, models) for name, entry in scores.items()]
    return rows


def scores_of(
    task, examples, models, knobs, known, decoders=None, cleaned=False
) -> dict[str, dict[str, list[float]]]:
    """decoder -> lists over all models and prompts: right, formed, nfe, n, w (the canvas that a
    row ends with), v (the mean canvas its forwards ran on), text.

    ``cleaned`` adds the reference with the fitted noise taken from its marginals, as ours has it.
    """
    decoders = list(variants()) if decoders is None else decoders
    scores: dict[str, dict[str, list[float]]] = {}
    prompts = [example.prompt for example in examples]

    def note(name, texts, nfe, n, w, v):
        entry = scores.setdefault(
            name, {k: [] for k in ("right", "formed", "nfe", "n", "w", "v", "text")}
        )
        entry["right"] += [float(is_valid(x, t)) for x, t in zip(examples, texts)]
        entry["formed"] += [float(is_well_formed(task, t)) for t in texts]
        for key, values in (("nfe", nfe), ("n", n), ("w", w), ("v", v), ("text", texts)):
            entry[key] += values

    length = [len(example.answer) for example in examples]
    for i, folder in enumerate(models):
        model, seed = load_small(folder), SEED + i  # draws of their own for each model
        one = {"rule": "budget", "error_step": 1e-9}
        references = {REFERENCE: one, "serial@true_length": {"preset": "serial"}}
        if cleaned and sampled(task):
            noise = load_calibration(folder).options["token_noise"]
            references["one_by_one_cleaned@true_length"] = {**one, "token_noise": noise}
        for name, options in references.items():

            def run(model=model, options=options, seed=seed):
                found = at_true_length(model, examples, seed=seed, **options, **sampled(task))
                return (*found, length, length, length)

            note(name, *once(known, (folder, task, name), run))
        for name, options in decoders:
            base = name.partition("+")[0]
            if base in knobs:
                options = {**options, KNOBS[base][0]: knobs[base]}

            def run(model=model, options=options, seed=seed):
                options = {**options, **sampled(task), "seed": seed, "history": True}
                o = decode(model, TOKENIZER, prompt=prompts, **options)
                return o.texts, o.nfe, o.num_new_tokens, o.canvas, mean_canvas(o.history)

            note(name, *once(known, (folder, task, name, knobs.get(base)), run))
    return scores


def mean_canvas(history) -> list[float]:
    """The mean canvas that the forwards of each row ran on."""
    size = 1 + max(int(step.rows.max()) for step in history)
    total, count = torch.zeros(size), torch.zeros(size)
    for step in history:
        total.index_add_(0, step.rows, step.length.float())
        count.index_add_(0, step.rows, torch.ones(len(step.rows)))
    return (total / count).tolist()


def canvases(folder: Path, count: int = 150) -> list[dict]:
    """Ours from canvases of several sizes to begin with, on dev prompts of one model."""
    model, rows = load_small(folder), []
    fitted = load_calibration(folder).options["initial_length"]
    for size in sorted({10, 14, 18, 22, fitted}):
        for task in TASKS:
            examples = make_examples(task, count, 405, "dev")
            output = decode(
                model,
                TOKENIZER,
                prompt=[e.prompt for e in examples],
                seed=SEED,
                history=True,
                initial_length=size,
                **sampled(task),
            )
            mean = mean_canvas(output.history)
            right = sum(is_valid(e, t) for e, t in zip(examples, output.texts))
            rows.append(
                {
                    "task": task,
                    "initial_length": size,
                    "right": round(right / count, 4),
                    "forwards": round(sum(output.nfe) / count, 3),
                    "positions_run": round(sum(m * n for m, n in zip(mean, output.nfe)) / count, 2),
                    "canvas_used": round(sum(output.num_new_tokens) / sum(output.canvas), 3),
                    "canvas_used_in_forwards": round(sum(output.num_new_tokens) / sum(mean), 3),
                }
            )
    return rows


def once(known: dict, key: tuple, run: Callable[[], tuple]) -> tuple:
    """What ``run`` gives, run once a key: the two tables share decoders without a knob."""
    if key not in known:
        known[key] = run()
    return known[key]


def summary(task, name, entry, base, models) -> dict:
    """Means over models and prompts, with differences paired to the reference."""
    total = len(base["right"])
    count = total // len(models)
    difference = [a - b for a, b in zip(entry["right"], base["right"])]
    mean, low, high = interval(difference)
    error = math.sqrt(sum((d - mean) ** 2 for d in difference) / max(total - 1, 1) / total)
    per = [entry["right"][i * count : (i + 1) * count] for i in range(len(models))]
    forwards = sum(entry["nfe"]) / total
    return {
        "task": task,
        "decoder": name,
        "right": round(sum(entry["right"]) / total, 4),
        "right_by_model": [round(sum(x) / count, 4) for x in per],
        "well_formed": round(sum(entry["formed"]) / total, 4),
        "minus_reference": [round(v, 4) for v in (mean, low, high)],
        "standard_error_of_difference": round(error, 4),
        "within_one_standard_error": mean >= -error,
        "forwards": round(forwards, 3),
        "times_fewer_forwards": round(sum(base["nfe"]) / sum(entry["nfe"]), 2),
        "times_fewer_at_law": times_fewer_at_law(entry) if task == "record" else None,
        "tokens_per_forward": round(sum(entry["n"]) / sum(entry["nfe"]), 3),
        "canvas_used": round(sum(entry["n"]) / sum(entry["w"]), 3),
        "canvas_used_in_forwards": round(sum(entry["n"]) / sum(entry["v"]), 3),
        "length_distance": length_distance(entry["n"]) if task == "record" else None,
        "step_share": step_share(entry["text"]) if task == "record" else None,
        "mean_length": round(sum(entry["n"]) / total, 3),
    }


def length_distance(lengths: list[int]) -> float:
    """Total variation between the lengths of ``record`` answers and their law."""
    law, total = record_length_law(), len(lengths)
    seen = {n: lengths.count(n) / total for n in set(lengths)}
    return round(0.5 * sum(abs(seen.get(n, 0) - law.get(n, 0)) for n in {*seen, *law}), 4)


def times_fewer_at_law(entry) -> float | None:
    """Tokens a forward with the lengths of ``record`` answers weighted by their law: without the
    luck of the lengths that were drawn, and of those of the reference. None where one is missing.
    """
    spent: dict[int, list[int]] = {}
    for n, nfe in zip(entry["n"], entry["nfe"]):
        spent.setdefault(n, []).append(nfe)
    law = record_length_law()
    if not law.keys() <= spent.keys():
        return None
    forwards = sum(p * sum(spent[n]) / len(spent[n]) for n, p in law.items())
    return round(sum(p * n for n, p in law.items()) / forwards, 2)


def step_share(texts: list[str]) -> float | None:
    """Of the steps of one or two letters between items of ``record`` answers, the share of one:
    0.5 in their law. None where there are none."""
    steps = [
        ord(b[0]) - ord(a[0]) for t in texts for a, b in itertools.pairwise(t.split(",")) if a and b
    ]
    known = [step for step in steps if step in (1, 2)]
    return round(known.count(1) / len(known), 4) if known else None


def mark_front(rows: list[dict]) -> None:
    """Whether no other decoder of the task has at least this quality in fewer forwards."""
    for row in rows:
        row["on_front"] = not any(
            (other["right"] >= row["right"] and other["forwards"] < row["forwards"])
            or (other["right"] > row["right"] and other["forwards"] <= row["forwards"])
            for other in rows
        )


# Why another decoder is ahead, where one is: read off the columns beside quality and forwards.
WHY = {
    "add": "a whole sum is sure in one forward: every rule that takes at once all that is sure "
    "needs one, and single prompts of 180 are between them; on a fixed canvas a quarter is used",
    "json": "copying is sure in one forward for every rule: ours is level with fixed, which uses "
    "half of its canvas",
    "record": "nobody is as good in fewer forwards; those that are more often right commit the "
    "surest draws first, which is no draw from the law: their lengths are four times farther off",
}


def told(row: dict) -> str:
    """One decoder in words."""
    words = (
        f"{row['decoder']}: {row['right']} right in {row['forwards']} forwards, "
        f"{row['canvas_used']} of the canvas used"
    )
    if row["length_distance"] is not None:
        words += f", {row['length_distance']} from the law of lengths"
    return words


def winners(rows: list[dict]) -> dict[str, dict]:
    """By task: the decoders on the front, cheapest first, and those that are ahead of ours."""
    found = {}
    for task in TASKS:
        mine = [r for r in rows if r["task"] == task and "@" not in r["decoder"]]
        front = sorted((r for r in mine if r["on_front"]), key=lambda r: r["forwards"])
        ours = next(r for r in mine if r["decoder"] == "bayes")
        beats = [
            r["decoder"]
            for r in front
            if r["right"] >= ours["right"] and r["forwards"] <= ours["forwards"] and r is not ours
        ]
        found[task] = {
            "front": [told(row) for row in front],
            "ours": told(ours),
            "as_good_in_fewer_forwards": beats,
            "why": WHY[task],
        }
    return found
