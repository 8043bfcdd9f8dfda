"""What a decoder believes against what is true, for `benchmarks/decoding.py`: ends and errors."""

import math
from pathlib import Path

import torch

from probcomp.decoding import Decoder, load_calibration
from probcomp.decoding.adapters import SmallAdapter
from probcomp.decoding.end import beyond_mass, cdf_end
from probcomp.decoding.ledger import Ledger
from probcomp.decoding.looking import look
from probcomp.decoding.noise import row_seeds
from probcomp.decoding.rows import Rows
from probcomp.decoding.sizing import by_daedal, by_rho
from probcomp.decoding.small.load import load_small, small_config
from probcomp.decoding.small.tasks import TASKS, Example, make_examples, record_length_law
from probcomp.decoding.small.tokenizer import CharacterTokenizer

CANVAS = 32
BATCH = 500  # answers judged at a time
TOKENIZER = CharacterTokenizer()


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


def ratio_interval(found: list[tuple[str, float, float]], seed: int = 0) -> list[float]:
    """95 % bootstrap interval of realised over expected, from (prompt, expected, wrong) of answers.

    Prompts (of records: with their answer) are drawn with all that there is of them: a wrong token
    seldom comes alone, short sums come again and again, and models err on the same prompts. (A
    Poisson interval would be too short.)
    """
    by_prompt: dict[str, list[float]] = {}
    for prompt, expected, wrong in found:
        at = by_prompt.setdefault(prompt, [0.0, 0.0])
        at[0], at[1] = at[0] + expected, at[1] + wrong
    table = torch.tensor(list(by_prompt.values()), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    ratios = []
    for _ in range(2000):
        pick = torch.randint(len(table), (len(table),), generator=generator)
        expected, wrong = table[pick].sum(0).tolist()
        ratios.append(wrong / expected)
    ratios.sort()
    return [round(ratios[50], 3), round(ratios[1949], 3)]


def judged(adapter, config, examples) -> list[tuple[str, float, float]]:
    """(prompt, expected, wrong) of each answer, the truth committed in place of each candidate."""
    found = []
    for first in range(0, len(examples), BATCH):
        some = examples[first : first + BATCH]
        context, keys, rows = canvas_rows(adapter, some, config, CANVAS)
        truth = torch.full((len(some), CANVAS), adapter.eos_ids[0])
        for i, example in enumerate(some):
            ids = TOKENIZER.encode(example.answer)
            truth[i, : len(ids)] = torch.tensor(ids)
        Decoder(adapter, config).run(context, keys, rows, row_seeds(0, len(some)), teacher=truth)
        both = zip(rows.ledger.spent.tolist(), rows.wrong.tolist())
        # The answer too names a record: one letter has many.
        found += [(f"{e.prompt} {e.answer}", spent, wrong) for e, (spent, wrong) in zip(some, both)]
    return found


def ledger(models: list[Path], counts: dict[str, int]) -> dict[str, dict]:
    """Expected against realised wrong commits of greedy decoding, ``counts`` prompts a task."""
    result = {}
    for task in TASKS:
        examples = make_examples(task, counts[task], 113, "test")
        by_model, everything = [], []
        for folder in models:
            adapter = SmallAdapter(load_small(folder))
            config = load_calibration(folder).apply(small_config())
            config = config.replace(sizing="none", max_new_tokens=CANVAS)
            found = judged(adapter, config, examples)
            everything += found
            by_model.append([sum(x) for x in list(zip(*found))[1:]])
        expected, wrong = (sum(column) for column in zip(*by_model))
        low, high = ratio_interval(everything)
        result[task] = {
            "prompts": counts[task],
            "different_prompts": len({e.prompt for e in examples}),
            "expected": round(expected, 2),
            "realised": wrong,
            "ratio": round(wrong / expected, 3),
            "ratio_interval": [low, high],
            "expected_and_realised_by_model": [[round(e, 2), w] for e, w in by_model],
            "within_twice": 0.5 <= wrong / expected <= 2.0,
            "interval_within_twice": low >= 0.5 and high <= 2.0,
            "each_model_within_twice": all(0.5 <= w / e <= 2.0 for e, w in by_model),
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


def at_law(models: list[Path]) -> dict[str, list[float]]:
    """Expected log score over the law of lengths, by model: all ten prompts that records have, and
    each length as often as the law has it, so without the luck of the answers that were drawn."""
    law = torch.zeros(CANVAS + 1, dtype=torch.float64)
    for length, p in record_length_law().items():
        law[length] = p
    examples = [Example("record", f"?{chr(97 + start)}", "") for start in range(10)]
    found: dict[str, list[float]] = {"posterior": [], "uncalibrated": [], "fitted_prior": []}
    for folder in models:
        adapter = SmallAdapter(load_small(folder))
        fitted = load_calibration(folder).apply(small_config())
        for name, config in (("posterior", fitted), ("uncalibrated", small_config())):
            bound, rows, view = first_views(adapter, config, examples, CANVAS)
            score = (view.p_end.double().clamp(min=1e-6).log() * law).sum(1)
            found[name].append(round(float(score.mean()), 4))
            if name == "posterior":
                prior = bound.prior.log_end(rows.length[:1], CANVAS)[0]
                found["fitted_prior"].append(round(float((prior * law)[law > 0].sum()), 4))
    best = float((law[law > 0] * law[law > 0].log()).sum())
    return {"law_itself": [round(best, 4)], **found}


def ends(models: list[Path], count: int) -> dict:
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
    result["truncation_auc"] = round(wins / (len(cut) * len(fits)), 5)
    return {**result, "expected_over_the_law": at_law(models)}
