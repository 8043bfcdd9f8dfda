"""How bold to be: the cheapest setting within one standard error of the best, on dev answers.

``error_step``           greedy decoding, scored by exact answers
``gamma``, ``draw_end``  sampling, scored by log q of the true answers under the decoder, with the
                         end drawn first or token by token. What committing together costs in
                         log q is its divergence from one token at a time.
"""

from collections.abc import Sequence

import torch

from probcomp.decoding.adapters.base import Adapter
from probcomp.decoding.calibrating.states import Pair
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.ledger import Ledger
from probcomp.decoding.loop import Decoder
from probcomp.decoding.noise import row_seeds
from probcomp.decoding.rows import Rows

ERRORS = (0.01, 0.03, 0.1, 0.3, 1.0)
GAMMAS = (0.01, 0.03, 0.1, 0.2, 0.35, 0.7)


def run_pairs(
    adapter: Adapter, config: DecodingConfig, pairs: Sequence[Pair], seed: int, *, teach: bool
) -> Rows:
    """Decode the prompts of ``pairs``, with their answers as teacher when asked."""
    left = max(len(prompt) for prompt, _ in pairs)
    size = config.max_new_tokens if config.sizing == "none" else config.initial_length
    context = torch.full((len(pairs), left), adapter.pad_id)
    keys = torch.zeros(context.shape, dtype=torch.bool)
    truth = torch.full((len(pairs), config.max_new_tokens), adapter.eos_ids[0])
    for i, (prompt, answer) in enumerate(pairs):
        context[i, left - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        keys[i, left - len(prompt) :] = True
        kept = answer[: config.max_new_tokens]
        truth[i, : len(kept)] = torch.tensor(kept, dtype=torch.long)
    rows = Rows(
        torch.full((len(pairs), size), adapter.mask_id),
        torch.full((len(pairs),), size),
        torch.ones(len(pairs), dtype=torch.bool),
        adapter.mask_id,
        ledger=Ledger.open(len(pairs), config.error_total, config.error_step),
        sizing=config.sizes_first,
    )
    Decoder(adapter, config).run(
        context, keys, rows, row_seeds(seed, len(pairs)), teacher=truth if teach else None
    )
    return rows


def sweep_error(
    adapter: Adapter, config: DecodingConfig, pairs: Sequence[Pair], seed: int
) -> tuple[float, list[dict[str, float]]]:
    """(error_step, table of settings)."""
    table, found = [], []
    for value in ERRORS:
        greedy = config.replace(error_step=value, temperature=0.0)
        rows = run_pairs(adapter, greedy, pairs, seed, teach=False)
        right = torch.tensor(
            [
                float(rows.ids[i, : int(rows.content[i])].tolist() == answer)
                for i, (_, answer) in enumerate(pairs)
            ]
        )
        found.append(right)
        table.append(
            {
                "error_step": value,
                "exact": round(float(right.mean()), 4),
                "forwards": round(float(rows.nfe.double().mean()), 4),
            }
        )
    return _cheapest(table, found, "exact")["error_step"], table


def _cheapest(
    table: list[dict[str, float]], scores: list[torch.Tensor], by: str
) -> dict[str, float]:
    """The entry of fewest forwards that loses at most a paired standard error to the best."""
    best = max(range(len(table)), key=lambda i: table[i][by])
    good = []
    for entry, score in zip(table, scores):
        loss = scores[best] - score
        if float(loss.mean()) <= float(loss.std()) / len(loss) ** 0.5:
            good.append(entry)
    return min(good, key=lambda entry: entry["forwards"])


def sweep_sampling(
    adapter: Adapter, config: DecodingConfig, pairs: Sequence[Pair], seed: int
) -> tuple[dict[str, float | bool], list[dict[str, float]]]:
    """({gamma, draw_end}, table): differences of log q are paired, answer by answer."""
    config = config.replace(temperature=1.0)
    table, scores = [], []
    for draw_end in (False, True):
        for value in GAMMAS:
            tried = config.replace(gamma=value, draw_end=draw_end)
            rows = run_pairs(adapter, tried, pairs, seed, teach=True)
            scores.append(rows.teacher_log_prob.clamp(min=-1e3))
            table.append(
                {
                    "gamma": value,
                    "draw_end": draw_end,
                    "log_q": round(float(scores[-1].mean()), 4),
                    "forwards": round(float(rows.nfe.double().mean()), 4),
                }
            )
    chosen = _cheapest(table, scores, "log_q")
    return {"gamma": chosen["gamma"], "draw_end": bool(chosen["draw_end"])}, table
