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
from probcomp.decoding.small.tasks import TASKS, make_examples, record_length_law
from probcomp.decoding.small.tokenizer import CharacterTokenizer

CANVAS = 32
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


def counted(events: float) -> tuple[float, float]:
    """The 95 % interval of a Poisson mean from a count (Garwood 1936)."""
    from scipy.stats import chi2

    low = chi2.ppf(0.025, 2 * events) / 2 if events else 0.0
    return float(low), float(chi2.ppf(0.975, 2 * events + 2) / 2)


def ledger(models: list[Path], count: int) -> dict[str, dict[str, float]]:
    """Expected against realised wrong commits, the truth committed in place of each candidate."""
    result = {}
    for task in TASKS:
        examples = make_examples(task, count, 103, "test")
        by_model = []
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
            by_model.append((float(rows.ledger.spent.sum()), float(rows.wrong.sum())))
        expected, wrong = (sum(column) for column in zip(*by_model))
        low, high = counted(wrong)
        result[task] = {
            "expected": round(expected, 2),
            "realised": wrong,
            "realised_interval": [round(low, 2), round(high, 2)],
            "ratio": round(wrong / expected, 3),
            "expected_and_realised_by_model": [[round(e, 2), w] for e, w in by_model],
            # A handful of events cannot tell a ratio: then the interval must meet [E / 2, 2 E].
            "within_twice": 0.5 <= wrong / expected <= 2.0,
            "interval_meets_twice": low <= 2 * expected and high >= 0.5 * expected,
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
