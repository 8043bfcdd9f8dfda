"""How bold to be: the cheapest setting within one standard error of the best, on dev answers.

``error_step``  greedy decoding, scored by exact answers
``gamma``       sampling, scored by log q of the true answers under the decoder (the divergence
                from one token at a time is what committing together costs)
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
    table = []
    for value in ERRORS:
        rows = run_pairs(adapter, config.replace(error_step=value, temperature=0.0), pairs, seed,
                         teach=False)  # fmt: skip
        right = [
            rows.ids[i, : int(rows.content[i])].tolist() == answer
            for i, (_, answer) in enumerate(pairs)
        ]
        table.append(
            {
                "error_step": value,
                "exact": sum(right) / len(right),
                "forwards": float(rows.nfe.double().mean()),
            }
        )
    best = max(entry["exact"] for entry in table)
    error = (max(best * (1 - best), 1e-4) / len(pairs)) ** 0.5
    good = [entry for entry in table if entry["exact"] >= best - error]
    return min(good, key=lambda entry: entry["forwards"])["error_step"], table


def sweep_gamma(
    adapter: Adapter, config: DecodingConfig, pairs: Sequence[Pair], seed: int
) -> tuple[float, list[dict[str, float]]]:
    """(gamma, table): differences of log q are paired, answer by answer."""
    config = config.replace(temperature=1.0)
    table, scores = [], []
    for value in GAMMAS:
        rows = run_pairs(adapter, config.replace(gamma=value), pairs, seed, teach=True)
        scores.append(rows.teacher_log_prob.clamp(min=-1e3))
        table.append(
            {
                "gamma": value,
                "log_q": float(scores[-1].mean()),
                "forwards": float(rows.nfe.double().mean()),
            }
        )
    best = max(range(len(table)), key=lambda i: table[i]["log_q"])
    good = []
    for entry, score in zip(table, scores):
        loss = scores[best] - score
        if float(loss.mean()) <= float(loss.std()) / len(loss) ** 0.5:
            good.append(entry)
    return min(good, key=lambda entry: entry["forwards"])["gamma"], table
