"""Decoders on the embedded model and on an exact oracle: quality against forwards.

    python benchmarks/decoding.py --models DIR DIR DIR --out benchmarks/results/decoding.json

Each DIR holds one training seed of `probcomp.decoding.small.train`. Every preset gets the same
held-out prompts and a canvas of 32 (the longest the models know); ours finds its own. Quality is
exact match (``add``, ``json``) and validity of draws at temperature 1 (``record``); differences to
one-token-at-a-time decoding are paired, with a bootstrap interval over prompts.
"""

import argparse
import json
import math
import platform
import random
import time
from pathlib import Path

import torch

from probcomp.decoding import Decoder, decode, presets
from probcomp.decoding.adapters import CallableAdapter, SmallAdapter
from probcomp.decoding.adapters.resolve import as_adapter
from probcomp.decoding.blocks import structure_posterior
from probcomp.decoding.durations import NegativeBinomial, log_duration
from probcomp.decoding.end import beyond_mass, cdf_end
from probcomp.decoding.ledger import Ledger
from probcomp.decoding.looking import look
from probcomp.decoding.noise import row_seeds
from probcomp.decoding.rows import Rows
from probcomp.decoding.small.load import FOLDER, load_small, small_config
from probcomp.decoding.small.tasks import is_valid, is_well_formed, make_examples, record_length_law
from probcomp.decoding.small.tokenizer import CharacterTokenizer
from probcomp.storage import write_json

CANVAS = 32
PRIOR_SHARE = 0.1
TOKENIZER = CharacterTokenizer()


def variants():
    """(name, options of `decode`) of every decoder that is compared."""
    comma = ((TOKENIZER.encode(",")[0], 1.0),)
    yield "bayes", {}
    for name in presets:
        if name == "bayes":
            continue
        options = {"preset": name, "max_new_tokens": CANVAS, "delimiters": comma}
        if presets[name].sizing != "none":
            options["initial_length"] = 16
        yield name, options
        if name in ("fixed", "wino"):
            yield f"{name}+stop", {**options, "stop": "eos"}


def interval(difference: list[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean and a paired 95 % bootstrap interval."""
    rng, n = random.Random(seed), len(difference)
    means = sorted(sum(rng.choices(difference, k=n)) / n for _ in range(1000))
    return sum(difference) / n, means[25], means[974]


def compare(models: list[Path], count: int) -> list[dict]:
    """One row per task and decoder, over all models."""
    rows = []
    for task in ("add", "json", "record"):
        examples = make_examples(task, count, 101, "test")
        prompts = [example.prompt for example in examples]
        sampled = {"temperature": 1.0} if task == "record" else {}
        scores: dict[str, dict[str, list[float]]] = {}
        for folder in models:
            model = load_small(folder)
            for name, options in variants():
                output = decode(model, TOKENIZER, prompt=prompts, seed=1, **options, **sampled)
                entry = scores.setdefault(
                    name, {k: [] for k in ("right", "formed", "nfe", "n", "w", "e")}
                )
                entry["right"] += [float(is_valid(e, t)) for e, t in zip(examples, output.texts)]
                entry["formed"] += [float(is_well_formed(task, t)) for t in output.texts]
                entry["nfe"] += output.nfe
                entry["n"] += output.num_new_tokens
                entry["w"] += output.canvas
                entry["e"] += output.expected_errors
        base = scores["serial"]["right"]
        for name, entry in scores.items():
            total = len(base)
            mean, low, high = interval([a - b for a, b in zip(entry["right"], base)])
            error = math.sqrt(max(sum(base) / total * (1 - sum(base) / total), 1e-9) / total)
            rows.append(
                {
                    "task": task,
                    "decoder": name,
                    "right": round(sum(entry["right"]) / total, 4),
                    "well_formed": round(sum(entry["formed"]) / total, 4),
                    "minus_serial": [round(v, 4) for v in (mean, low, high)],
                    "serial_standard_error": round(error, 4),
                    "forwards": round(sum(entry["nfe"]) / total, 3),
                    "tokens_per_forward": round(sum(entry["n"]) / sum(entry["nfe"]), 3),
                    "canvas_used": round(sum(entry["n"]) / sum(entry["w"]), 3),
                    "expected_errors": round(sum(entry["e"]) / total, 4),
                    "length_distance": length_distance(entry["n"]) if task == "record" else None,
                    "mean_length": round(sum(entry["n"]) / total, 3),
                }
            )
        mark_front([row for row in rows if row["task"] == task])
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
            config = small_config().replace(sizing="none", max_new_tokens=CANVAS)
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


def ends(models: list[Path], count: int) -> dict[str, float]:
    """Log score of the end posterior on ``record``, against the law and hard decisions; AUC."""
    examples = make_examples("record", count, 105, "test")
    truth = torch.tensor([len(example.answer) + 1 for example in examples])
    law = record_length_law()
    scores: dict[str, list[float]] = {
        "posterior": [],
        "with_prior": [],
        "law": [],
        "configured_prior": [],
        "point": [],
    }
    fits, cut = [], []
    for folder in models:
        adapter = SmallAdapter(load_small(folder))
        config = small_config()
        bound = Decoder(adapter, config).bound
        context, keys, rows = canvas_rows(adapter, examples, config, CANVAS)
        ids = torch.cat((context, rows.ids), dim=1)
        full = torch.cat((keys, torch.ones_like(rows.ids, dtype=torch.bool)), dim=1)
        logits = adapter.forward(ids, full, context.shape[1]).logits
        view = look(
            bound,
            rows,
            torch.arange(count),
            rows.ids,
            full[:, context.shape[1] :],
            logits,
            row_seeds(0, count),
        )
        p = view.p_end.double().clamp(min=1e-6)
        scores["posterior"] += p.gather(1, truth[:, None] - 1).log()[:, 0].tolist()
        prior = bound.prior.log_end(rows.length, CANVAS)
        # A tenth of the prior, a share chosen on other prompts: the marginals are not quite a CDF.
        mixed = (1 - PRIOR_SHARE) * p + PRIOR_SHARE * prior.exp()
        scores["with_prior"] += mixed.gather(1, truth[:, None] - 1).log()[:, 0].tolist()
        scores["configured_prior"] += prior.gather(1, truth[:, None] - 1)[:, 0].tolist()
        scores["law"] += [math.log(law[int(k) - 1]) for k in truth]
        # A decision for one end, the first position whose argmax is EOS, softened as kindly as it
        # can be: the right share of its hits on the point, the rest spread over the canvas.
        top = view.features.top == adapter.eos_ids[0]
        point = torch.where(top, torch.arange(CANVAS), CANVAS).min(1).values + 1
        hit = float((point == truth).double().mean().clamp(1e-3, 1 - 1e-3))
        hard = [
            math.log(hit) if a == b else math.log((1 - hit) / CANVAS) for a, b in zip(point, truth)
        ]
        scores["point"] += hard
        for task in ("add", "json"):
            for example in make_examples(task, 80, 107, "test"):
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


def overhead() -> dict[str, float]:
    """Milliseconds: decisions beside a forward (W = 256, V = 32k), and the semi-Markov pass."""
    torch.manual_seed(0)
    width, vocabulary, size = 256, 32_000, 768
    layers = torch.nn.ModuleList(
        torch.nn.TransformerEncoderLayer(size, 12, 3072, batch_first=True) for _ in range(12)
    ).eval()
    embed, head = torch.nn.Embedding(vocabulary, size), torch.nn.Linear(size, vocabulary)
    spent = []

    def forward(ids, keys):
        began = time.perf_counter()
        x = embed(ids)
        for layer in layers:
            x = layer(x)
        found = head(x)
        spent.append(time.perf_counter() - began)
        return found

    adapter = CallableAdapter(forward, mask_id=0, eos_ids=1, vocab_size=vocabulary)
    config = presets["bayes"].replace(
        initial_length=width, max_new_tokens=width, sizing="none", delimiters=((5, 1.0),)
    )
    rows = Rows(
        torch.zeros(1, width, dtype=torch.long),
        torch.tensor([width]),
        torch.ones(1).bool(),
        0,
        ledger=Ledger.open(1, 2.0, 0.1),
        sizing=False,
    )
    context = torch.full((1, 8), 7)
    shares, last = [], [time.perf_counter()]

    class Enough(Exception):
        pass

    def watch(step):
        now = time.perf_counter()
        shares.append((now - last[0] - spent[-1]) / spent[-1])
        last[0] = now
        if len(shares) == 10:
            raise Enough

    try:
        with torch.no_grad():
            Decoder(adapter, config).run(
                context, torch.ones_like(context), rows, row_seeds(0, 1), observer=watch
            )
    except Enough:
        pass
    durations = log_duration(NegativeBinomial(24.0, 4.0, 64))
    passes = []
    for _ in range(15):
        began = time.perf_counter()
        structure_posterior(torch.randn(32, 257), torch.randn(32, 256), durations)
        passes.append(time.perf_counter() - began)
    return {
        "forward_ms_median": round(1e3 * sorted(spent)[len(spent) // 2], 2),
        "decision_share_median": round(sorted(shares)[len(shares) // 2], 4),
        "semi_markov_ms_median": round(1e3 * sorted(passes)[7], 2),
        "semi_markov_ms_best": round(1e3 * min(passes), 2),
    }


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, nargs="+", default=[FOLDER])
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    as_adapter(None, None)
    result = {
        "machine": f"{platform.processor() or platform.machine()}, one thread, shared machine",
        "torch": torch.__version__,
        "models": len(options.models),
        "prompts_per_task": options.count,
        "overhead": overhead(),
        "ends": ends(options.models, options.count),
        "ledger": ledger(options.models, options.count),
        "decoders": compare(options.models, options.count),
    }
    print(json.dumps({k: v for k, v in result.items() if k != "decoders"}, indent=1))
    for row in result["decoders"]:
        print(row)
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
