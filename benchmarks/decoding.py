"""Decoders on the embedded model and on exact oracles: quality against forwards.

    probcomp bench decoding --models DIR DIR DIR --out benchmarks/results/decoding.json

Each DIR holds one training seed of `probcomp.decoding.small.train`, and gets a calibration on dev
prompts if it has none. Every decoder has one knob, chosen on the same dev prompts (`KNOBS`); what
is reported comes from test prompts. Published decoders get a canvas of 32, the longest the models
know; ours finds its own. Quality is exact match (``add``, ``json``) and, for draws at temperature
1 (``record``), validity beside the distance to the known law of lengths. The reference writes one
token a forward on a canvas of the true length. Differences are paired, with a bootstrap interval.
``--only`` runs some sections and keeps the others of the file.
"""

import argparse
import math
import platform
import random
from pathlib import Path

import torch
from _decoding_oracles import oracles
from _decoding_overhead import overhead

from probcomp.decoding import Decoder, calibrate, decode, load_calibration, presets
from probcomp.decoding.adapters import SmallAdapter
from probcomp.decoding.adapters.resolve import as_adapter
from probcomp.decoding.calibrating.record import FILE
from probcomp.decoding.end import beyond_mass, cdf_end
from probcomp.decoding.ledger import Ledger
from probcomp.decoding.looking import look
from probcomp.decoding.noise import row_seeds
from probcomp.decoding.rows import Rows
from probcomp.decoding.sizing import by_daedal, by_rho
from probcomp.decoding.small.load import FOLDER, load_small, small_config
from probcomp.decoding.small.tasks import is_valid, is_well_formed, make_examples, record_length_law
from probcomp.decoding.small.tokenizer import CharacterTokenizer
from probcomp.storage import read_json, write_json

CANVAS = 32
TUNED = 20  # dev prompts a task on which a knob is chosen
KNOBS: dict[str, tuple[str, tuple[float, ...]]] = {
    "fixed": ("threshold", (0.8, 0.9, 0.95)),
    "factor": ("factor", (0.5, 1.0, 2.0)),
    "eb": ("gamma", (0.05, 0.1, 0.35)),
    "adablock": ("threshold", (0.8, 0.9, 0.95)),
    "daedal": ("initial_length", (8, 16, 24)),
    "rho_eos": ("initial_length", (8, 16, 24)),
    "klass": ("threshold", (0.6, 0.8, 0.9)),
    "wino": ("below", (0.7, 0.8, 0.9)),
    "dystruct": ("error_step", (0.03, 0.1, 0.3)),
}
TOKENIZER = CharacterTokenizer()


def variants():
    """(name, options of `decode`) of every decoder that is compared."""
    comma = ((TOKENIZER.encode(",")[0], 1.0),)
    yield "bayes", {}
    yield "bayes_careful", {"error_step": 0.03, "gamma": 0.03}
    for name in presets:
        if name in ("bayes", "llada"):  # llada at 32 steps on 32 positions is serial
            continue
        options = {"preset": name, "max_new_tokens": CANVAS, "delimiters": comma}
        if presets[name].sizing != "none":
            options["initial_length"] = 16
        yield name, options
        if name in ("fixed", "wino"):
            yield f"{name}+stop", {**options, "stop": "eos"}


def tuned(model) -> dict[str, float]:
    """The knob of each preset: most dev prompts right, then fewest forwards."""
    found = {}
    for name, options in variants():
        if name not in KNOBS:
            continue
        knob, values = KNOBS[name]
        tried = []
        for value in values:
            right = forwards = 0
            for task in ("add", "json"):
                examples = make_examples(task, TUNED, 401, "dev")
                prompts = [example.prompt for example in examples]
                output = decode(model, TOKENIZER, prompt=prompts, **{**options, knob: value})
                right += sum(is_valid(e, t) for e, t in zip(examples, output.texts))
                forwards += sum(output.nfe)
            tried.append((right, -forwards, value))
        found[name] = max(tried)[2]
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


def compare(models: list[Path], count: int, knobs: dict[str, float]) -> list[dict]:
    """One row per task and decoder, over all models."""
    rows = []
    for task in ("add", "json", "record"):
        examples = make_examples(task, count, 101, "test")
        prompts = [example.prompt for example in examples]
        sampled = {"temperature": 1.0} if task == "record" else {}
        scores: dict[str, dict[str, list[float]]] = {}

        def note(name, texts, nfe, n, w, e, task=task, examples=examples, scores=scores):
            entry = scores.setdefault(
                name, {k: [] for k in ("right", "formed", "nfe", "n", "w", "e")}
            )
            entry["right"] += [float(is_valid(x, t)) for x, t in zip(examples, texts)]
            entry["formed"] += [float(is_well_formed(task, t)) for t in texts]
            for key, values in (("nfe", nfe), ("n", n), ("w", w), ("e", e)):
                entry[key] += values

        for folder in models:
            model = load_small(folder)
            references = {
                "one_by_one@true_length": {"rule": "budget", "error_step": 1e-9},
                "serial@true_length": {"preset": "serial"},
            }
            for name, options in references.items():
                texts, nfe = at_true_length(model, examples, seed=1, **options, **sampled)
                length = [len(e.answer) for e in examples]
                note(name, texts, nfe, length, length, [0.0] * count)
            for name, options in variants():
                base = name.partition("+")[0]
                if base in knobs:
                    options = {**options, KNOBS[base][0]: knobs[base]}
                output = decode(model, TOKENIZER, prompt=prompts, seed=1, **options, **sampled)
                note(name, output.texts, output.nfe, output.num_new_tokens, output.canvas,
                     output.expected_errors)  # fmt: skip
        base = scores["one_by_one@true_length"]["right"]
        for name, entry in scores.items():
            total = len(base)
            mean, low, high = interval([a - b for a, b in zip(entry["right"], base)])
            error = math.sqrt(max(sum(base) / total * (1 - sum(base) / total), 1e-9) / total)
            per = [entry["right"][i * count : (i + 1) * count] for i in range(len(models))]
            rows.append(
                {
                    "task": task,
                    "decoder": name,
                    "right": round(sum(entry["right"]) / total, 4),
                    "right_by_model": [round(sum(x) / count, 4) for x in per],
                    "well_formed": round(sum(entry["formed"]) / total, 4),
                    "minus_reference": [round(v, 4) for v in (mean, low, high)],
                    "reference_standard_error": round(error, 4),
                    "forwards": round(sum(entry["nfe"]) / total, 3),
                    "tokens_per_forward": round(sum(entry["n"]) / sum(entry["nfe"]), 3),
                    "canvas_used": round(sum(entry["n"]) / sum(entry["w"]), 3),
                    "expected_errors": round(sum(entry["e"]) / total, 4),
                    "length_distance": length_distance(entry["n"]) if task == "record" else None,
                    "mean_length": round(sum(entry["n"]) / total, 3),
                }
            )
        mark_front([r for r in rows if r["task"] == task and "@" not in r["decoder"]])
    return rows


def length_distance(lengths: list[int]) -> float:
    """Total variation between the lengths of ``record`` answers and their law."""
    law, total = record_length_law(), len(lengths)
    seen = {n: lengths.count(n) / total for n in set(lengths)}
    return round(0.5 * sum(abs(seen.get(n, 0) - law.get(n, 0)) for n in {*seen, *law}), 4)


def mark_front(rows: list[dict]) -> None:
    """Whether no other decoder of the task has at least this quality in fewer forwards."""
    for row in rows:
        row["on_front"] = not any(
            (other["right"] >= row["right"] and other["forwards"] < row["forwards"])
            or (other["right"] > row["right"] and other["forwards"] <= row["forwards"])
            for other in rows
        )


def canvas_rows(adapter, examples, config, size):
    """Context and masked canvases of one size for a list of examples."""
    found = TOKENIZER([example.prompt for example in examples])
    rows = Rows(
        torch.full((len(examples), size), adapter.mask_id),
        torch.full((len(examples),), size),
        torch.ones(len(examples), dtype=torch.bool),
        adapter.mask_id,
        ledger=Ledger.open(len(examples), config.error_total, config.error_step),
        sizing=False,
    )
    return found["input_ids"], found["attention_mask"].bool(), rows


def ledger(models: list[Path], count: int) -> dict[str, dict[str, float]]:
    """Expected against realised wrong commits, the truth committed in place of each candidate."""
    result = {}
    for task in ("add", "json", "walk", "record"):
        examples = make_examples(task, count, 103, "test")
        wrong = expected = 0.0
        for folder in models:
            adapter = SmallAdapter(load_small(folder))
            config = load_calibration(folder).apply(small_config())
            config = config.replace(sizing="none", max_new_tokens=CANVAS)
            context, keys, rows = canvas_rows(adapter, examples, config, CANVAS)
            truth = torch.full((count, CANVAS), adapter.eos_ids[0])
            for i, example in enumerate(examples):
                ids = TOKENIZER.encode(example.answer)
                truth[i, : len(ids)] = torch.tensor(ids)
            Decoder(adapter, config).run(context, keys, rows, row_seeds(0, count), teacher=truth)
            wrong += float(rows.wrong.sum())
            expected += float(rows.ledger.spent.sum())
        result[task] = {
            "expected": round(expected, 2),
            "realised": wrong,
            "ratio": round(wrong / expected, 3),
        }
    return result


def softened(low, high, truth) -> list[float]:
    """Log scores of a decision "the end is in (low, high]", made as kind as it can be: its own hit
    rate on the interval, the rest on the other positions of the canvas."""
    inside = (truth > low) & (truth <= high)
    hit = float(inside.double().mean().clamp(1e-3, 1 - 1e-3))
    size = (high - low).clamp(1, CANVAS - 1).double()
    found = torch.where(inside, hit / size, (1 - hit) / (CANVAS - size))
    return found.log().tolist()


def first_views(adapter, config, examples, size):
    """What a first forward on a blank canvas of ``size`` says: (bound, rows, view)."""
    bound = Decoder(adapter, config).bound
    context, keys, rows = canvas_rows(adapter, examples, config, size)
    full = torch.cat((keys, torch.ones_like(rows.ids, dtype=torch.bool)), dim=1)
    logits = adapter.forward(torch.cat((context, rows.ids), 1), full, context.shape[1]).logits
    count, valid = len(examples), full[:, context.shape[1] :]
    seeds = row_seeds(0, count)
    return bound, rows, look(bound, rows, torch.arange(count), rows.ids, valid, logits, seeds)


def decisions(adapter, config, examples, truth) -> dict[str, list[float]]:
    """DAEDAL's and rho-EOS's implied intervals of the end, scored as densities."""
    count = len(examples)
    daedal, rho = torch.full((count,), CANVAS), torch.full((count,), CANVAS)
    still, open_ = torch.ones(count, dtype=torch.bool), torch.ones(count, dtype=torch.bool)
    for size in range(8, CANVAS + 1, 8):
        _, _, view = first_views(adapter, config, examples, size)
        top = view.features.top == adapter.eos_ids[0]
        stops = still & (by_daedal(view, top, CANVAS) <= 0)
        daedal, still = torch.where(stops, size, daedal), still & ~stops
        calm = open_ & (by_rho(view, top, CANVAS) <= 0)
        rho, open_ = torch.where(calm, size, rho), open_ & ~calm
    return {
        "daedal": softened((daedal - 8).clamp(min=0), daedal, truth),
        # A share of EOS between 0.4 and 0.6 says the text ends in that part of the canvas.
        "rho_eos": softened((0.4 * rho).long(), (0.6 * rho).long() + 1, truth),
    }


def ends(models: list[Path], count: int) -> dict[str, float]:
    """Log score of the end posterior on ``record``, against priors and hard decisions; AUC."""
    examples = make_examples("record", count, 105, "test")
    truth = torch.tensor([len(example.answer) + 1 for example in examples])
    law = record_length_law()
    names = ("posterior", "uncalibrated", "law", "fitted_prior", "point", "daedal", "rho_eos")
    scores: dict[str, list[float]] = {name: [] for name in names}
    fits, cut = [], []
    for folder in models:
        adapter = SmallAdapter(load_small(folder))
        config = load_calibration(folder).apply(small_config())
        bound, rows, view = first_views(adapter, config, examples, CANVAS)
        p = view.p_end.double().clamp(min=1e-6)
        scores["posterior"] += p.gather(1, truth[:, None] - 1).log()[:, 0].tolist()
        _, _, plain = first_views(adapter, small_config(), examples, CANVAS)
        q = plain.p_end.double().clamp(min=1e-6)
        scores["uncalibrated"] += q.gather(1, truth[:, None] - 1).log()[:, 0].tolist()
        prior = bound.prior.log_end(rows.length, CANVAS)
        scores["fitted_prior"] += prior.gather(1, truth[:, None] - 1)[:, 0].tolist()
        scores["law"] += [math.log(law[int(k) - 1]) for k in truth]
        top = view.features.top == adapter.eos_ids[0]
        point = torch.where(top, torch.arange(CANVAS), CANVAS).min(1).values + 1
        scores["point"] += softened(point - 1, point, truth)
        for name, values in decisions(adapter, config, examples, truth).items():
            scores[name] += values
        for task in ("add", "json"):
            for example in make_examples(task, 40, 107, "test"):
                n = len(example.answer)
                for size in (n // 2, 3 * n // 4, n + 1, n + 4, 2 * n):
                    if not 4 <= size <= CANVAS:
                        continue
                    c, k, r = canvas_rows(adapter, [example], config, size)
                    mass = adapter.forward(
                        torch.cat((c, r.ids), 1),
                        torch.cat((k, torch.ones_like(r.ids).bool()), 1),
                        c.shape[1],
                    ).logits.softmax(-1)[..., adapter.eos_ids[0]]
                    allowed = torch.ones(1, size + 1, dtype=torch.bool)
                    beyond = beyond_mass(cdf_end(mass, allowed, r.length), r.length)
                    (fits if size > n else cut).append(float(beyond))
    wins = sum((c > f) + 0.5 * (c == f) for c in cut for f in fits)
    result = {f"{name}_nats": round(sum(v) / len(v), 4) for name, v in scores.items()}
    return {**result, "truncation_auc": round(wins / (len(cut) * len(fits)), 5)}


SECTIONS = ("overhead", "ends", "ledger", "oracles", "decoders")


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, nargs="+", default=[FOLDER])
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    as_adapter(None, None)
    dev = [
        (e.prompt, e.answer)
        for task in ("add", "json", "record")
        for e in make_examples(task, 60, 301, "dev")
    ]
    for folder in options.models:
        if not (folder / FILE).is_file():
            calibrate(load_small(folder), TOKENIZER, examples=dev, out=folder, sweep=False)
    result = read_json(options.out) if options.out and options.out.is_file() else {}
    result |= {
        "command": "probcomp bench decoding --models DIR DIR DIR",
        "machine": f"{platform.processor() or platform.machine()}, one thread, shared machine",
        "torch": torch.__version__,
        "models": [read_json(folder / "training.json") for folder in options.models],
    }
    for training in result["models"]:
        training.pop("curve")
        training.pop("refined_from", None)
    count = options.count
    if "overhead" in options.only:
        result["overhead"] = overhead()
    if "ends" in options.only:
        result["ends"] = {"prompts": count, **ends(options.models, count)}
    if "ledger" in options.only:
        result["ledger"] = {"prompts": count, **ledger(options.models, count)}
    if "oracles" in options.only:
        result["oracles"] = oracles()
    if "decoders" in options.only:
        # Knobs in the file were chosen on the same dev prompts before: they are kept.
        result["knobs"] = result.get("knobs") or tuned(load_small(options.models[0]))
        result["prompts_per_task"] = count
        result["decoders"] = compare(options.models, count, result["knobs"])
    for name in options.only:
        rows = result[name]
        for row in rows if isinstance(rows, list) else [rows]:
            print(row)
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
