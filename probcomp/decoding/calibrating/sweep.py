"""How bold to be, on dev answers.

``error_step``           greedy decoding, scored by exact answers: the cheapest setting within one
                         standard error of the best
``token_noise``          sampling, by log q of the true answers under the decoder
``gamma``, ``draw_end``  sampling, scored by log q of the true answers under the decoder: with the
``draw_commits``         end drawn token by token, first and alone, or in one forward with other
                         tokens. What committing together costs in log q is its divergence from
                         one token at a time; a forward is worth `WORTH` nats of it.
"""

from collections.abc import Callable, Sequence

import torch

from probcomp.decoding.adapters.base import Adapter
from probcomp.decoding.calibrating.confidence import Watched
from probcomp.decoding.calibrating.states import Pair
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.ledger import Ledger
from probcomp.decoding.loop import Decoder, Step
from probcomp.decoding.noise import row_seeds
from probcomp.decoding.rows import Rows

ERRORS = (0.01, 0.03, 0.1, 0.3, 1.0)
BOLD = 0.1  # the step of the error at which commits are watched
GAMMAS = (0.01, 0.03, 0.06, 0.1, 0.2, 0.3)
FINE = 0.03  # nats a forward
BATCH = 500  # answers watched at a time
TOKEN_NOISES = (0.0, 0.005, 0.01, 0.02, 0.04)
WORTH = 0.1  # nats of an answer's log q for one forward
FLOOR = -20.0  # nats: an answer that is all but impossible is one mistake, however impossible
ENDS = ((False, False), (True, False), (True, True))  # draw_end, draw_commits


def run_pairs(
    adapter: Adapter,
    config: DecodingConfig,
    pairs: Sequence[Pair],
    seed: int,
    *,
    teach: bool,
    observer: Callable[[Step], object] | None = None,
) -> Rows:
    """Decode the prompts of ``pairs``, with their answers as teacher when asked."""
    left = max(len(prompt) for prompt, _ in pairs)
    size = config.max_new_tokens if config.sizing == "none" else config.initial_length
    context = torch.full((len(pairs), left), adapter.pad_id)
    keys = torch.zeros(context.shape, dtype=torch.bool)
    for i, (prompt, _) in enumerate(pairs):
        context[i, left - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        keys[i, left - len(prompt) :] = True
    rows = Rows(
        torch.full((len(pairs), size), adapter.mask_id),
        torch.full((len(pairs),), size),
        torch.ones(len(pairs), dtype=torch.bool),
        adapter.mask_id,
        ledger=Ledger.open(len(pairs), config.error_total, config.error_step),
        sizing=config.sizes_first,
    )
    Decoder(adapter, config).run(
        context,
        keys,
        rows,
        row_seeds(seed, len(pairs)),
        teacher=_truth(adapter, config, pairs) if teach else None,
        observer=observer,
    )
    return rows


def _truth(adapter: Adapter, config: DecodingConfig, pairs: Sequence[Pair]) -> torch.Tensor:
    """The answers, filled with EOS to the longest canvas, [answers, max_new_tokens]."""
    truth = torch.full((len(pairs), config.max_new_tokens), adapter.eos_ids[0])
    for i, (_, answer) in enumerate(pairs):
        kept = answer[: config.max_new_tokens]
        truth[i, : len(kept)] = torch.tensor(kept, dtype=torch.long)
    return truth


def commits(adapter: Adapter, config: DecodingConfig, pairs: Sequence[Pair], seed: int) -> Watched:
    """What greedy decoding would commit, the truth committed in its place.

    These are the tokens that the ledger pays for: on canvases as a decoder meets them, and only
    those it dares to take. (Random masks show other states, in which it is wrong more often.) One
    setting alone: two would watch the same answers, and count what they say twice.
    """
    found = [Watched(torch.zeros(0), torch.zeros(0, dtype=torch.bool), torch.zeros(0))]
    tried = config.replace(temperature=0.0, error_step=BOLD)
    for first in range(0, len(pairs), BATCH):  # greedy: rows need no seeds of their own
        some = pairs[first : first + BATCH]
        truth = _truth(adapter, config, some)

        def watch(step: Step, truth: torch.Tensor = truth) -> None:
            # Not `step.ids`: a canvas that was cut in this forward has no token behind its end.
            wrong = step.token != truth[step.rows, : step.token.shape[1]]
            doubt = step.doubt[:, None].expand_as(step.confidence)
            on = step.commit
            found.append(Watched(step.confidence[on], wrong[on], doubt[on]))

        run_pairs(adapter, tried, some, seed, teach=True, observer=watch)
    return Watched(
        *(torch.cat([getattr(w, k) for w in found]) for k in ("confidence", "wrong", "doubt"))
    )


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


def fit_token_noise(
    adapter: Adapter,
    config: DecodingConfig,
    pairs: Sequence[Pair],
    held: Sequence[Pair],
    seed: int,
) -> tuple[float, list[dict[str, float]]]:
    """(token_noise, table): the noise of best log q of ``pairs``; none where it loses more than a
    standard error on ``held``.

    Little is drawn together (`FINE`), so that it is the marginals that are fitted and not the cost
    of drawing together.
    """
    fine = config.replace(temperature=1.0, gamma=FINE, draw_end=True, draw_commits=True)

    def score(noise: float, some: Sequence[Pair]) -> torch.Tensor:
        rows = run_pairs(adapter, fine.replace(token_noise=noise), some, seed, teach=True)
        return rows.teacher_log_prob.clamp(min=FLOOR)

    table = [
        {"token_noise": v, "log_q": round(float(score(v, pairs).mean()), 4)} for v in TOKEN_NOISES
    ]
    best = max(table, key=lambda entry: entry["log_q"])["token_noise"]
    gain = score(best, held) - score(0.0, held)
    keep = float(gain.mean()) >= -float(gain.std()) / len(gain) ** 0.5
    return (best if keep else 0.0), table


def sweep_sampling(
    adapter: Adapter, config: DecodingConfig, pairs: Sequence[Pair], seed: int
) -> tuple[dict[str, float | bool], list[dict[str, float]]]:
    """({gamma, draw_end, draw_commits}, table): of most log q less what the forwards are worth."""
    config = config.replace(temperature=1.0)
    table = []
    for draw_end, draw_commits in ENDS:
        for value in GAMMAS:
            choice = {"gamma": value, "draw_end": draw_end, "draw_commits": draw_commits}
            rows = run_pairs(adapter, config.replace(**choice), pairs, seed, teach=True)
            log_q = float(rows.teacher_log_prob.clamp(min=FLOOR).mean())
            forwards = float(rows.nfe.double().mean())
            table.append({**choice, "log_q": round(log_q, 4), "forwards": round(forwards, 4)})
    best = max(table, key=lambda entry: entry["log_q"] - WORTH * entry["forwards"])
    chosen = {"gamma": best["gamma"]}
    chosen |= {name: bool(best[name]) for name in ("draw_end", "draw_commits")}
    return chosen, table
