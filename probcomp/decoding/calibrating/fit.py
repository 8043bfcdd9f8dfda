"""`calibrate`: fit a decoder's beliefs about a model on dev answers, check them, write them."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from probcomp.decoding.adapters.resolve import as_adapter
from probcomp.decoding.calibrating.borders import fit_borders
from probcomp.decoding.calibrating.confidence import fit_errors
from probcomp.decoding.calibrating.coupling import fit_coupling
from probcomp.decoding.calibrating.ends import fit_end, log_score, prior_score
from probcomp.decoding.calibrating.hazard import fit_hazard
from probcomp.decoding.calibrating.record import Calibration, checksum
from probcomp.decoding.calibrating.room import FEWEST, check_ids, check_room, longest_canvas
from probcomp.decoding.calibrating.states import Pair, States, blank, partial
from probcomp.decoding.calibrating.sweep import (
    commits,
    fit_token_noise,
    sweep_error,
    sweep_sampling,
)
from probcomp.decoding.end_model import EndModel
from probcomp.decoding.length import LengthPrior
from probcomp.errors import InputError

HELD_OUT = 0.25  # of the answers, for the check
CHOSEN = 0.25  # for choosing between fits and settings
FITTED = 720  # answers that the end, the borders and the coupling are fitted on at most
SWEPT = 120  # answers that a sweep decodes at most, three times as many when sampling


def read_examples(path: Path | str) -> list[tuple[str, str]]:
    """(prompt, answer) pairs from JSON lines with these two keys."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            found.append((str(value["prompt"]), str(value["answer"])))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f'{path}, line {number}: expected {{"prompt": ..., "answer": ...}}'
            ) from error
    return found


def _encode(tokenizer: Any, text: str) -> list[int]:
    try:
        return list(tokenizer.encode(text, add_special_tokens=False))
    except TypeError:
        return list(tokenizer.encode(text))


@torch.no_grad()
def calibrate(
    model: Any = None,
    tokenizer: Any = None,
    *,
    examples: Sequence[tuple[str, str]] | Path | str,
    out: Path | str | None = None,
    seed: int = 0,
    sweep: bool = True,
) -> Calibration:
    """Fit the options of a decoder on dev answers.

    Half of the answers are fitted on, a quarter chooses between fits and settings, and a quarter
    is held out to check what came out. What is worse there than doing without is dropped, so the
    report's figures of it are of a choice between two (and the sweeps' tables are of the answers
    that settings were chosen on): neither is a result to quote. Settings of drawing are chosen on
    all but the held-out answers.

    Args:
        model: what `probcomp.decode` takes; None is the embedded model.
        examples: (prompt, answer) texts, or a file of JSON lines with these keys; not answers that
            results are reported on. A few hundred do for all but the error curves (more than
            `FITTED` of the half that is fitted on are not read): a model that is seldom wrong shows
            how seldom on thousands, and only those curves read more (and how long answers are).
        out: a file, or the model's folder, to write the calibration to.
        sweep: also fit ``token_noise`` and choose ``error_step``, ``gamma``, ``draw_end`` and
            ``draw_commits`` by decoding; when drawing, a forward is worth `sweep.WORTH` nats of an
            answer's log q.

    Raises:
        InputError: too few examples, prompts or answers that leave no room in the context, ids
            that the model does not have, or a fit of the end that scores no better than the length
            prior on the held-out answers: then nothing is written. A fit of the error that is
            worse than 1 - c there is dropped, and the report says so.
    """
    adapter, tokenizer, config = as_adapter(model, tokenizer)
    network = getattr(adapter, "model", None)
    if not isinstance(network, torch.nn.Module):
        raise InputError("only a model with weights can be calibrated; this adapter has none")
    if isinstance(examples, Path | str):
        examples = read_examples(examples)
    if len(examples) < FEWEST:
        raise InputError(f"calibration needs {FEWEST} answers or more, got {len(examples)}")
    if tokenizer is None:
        raise InputError("calibration needs the model's tokenizer")
    pairs: list[Pair] = [(_encode(tokenizer, p), _encode(tokenizer, a)) for p, a in examples]
    check_ids(adapter, pairs)
    random.Random(seed).shuffle(pairs)
    cut = max(int(len(pairs) * HELD_OUT), 5)
    more = cut + max(int(len(pairs) * CHOSEN), 5)
    held, chosen, train = pairs[:cut], pairs[cut:more], pairs[more:]
    parts = (train, chosen, held)
    longest = longest_canvas(adapter, config.max_new_tokens, pairs)
    check_room([*train, *chosen], held, longest)

    ends = torch.tensor([len(answer) + 1 for _, answer in train])
    hazard = fit_hazard(ends)
    prior = LengthPrior(hazard.hazard)
    initial = first_canvas(prior, longest, config.cost_truncation, config.cost_position)
    some, check = train[:FITTED], held[: FITTED // 2]
    full = blank(adapter, some, config.delimiters, longest, initial, seed)
    partly = partial(adapter, some, config.delimiters, longest, seed)
    end = fit_end(full, partly, prior, config.tail_window)

    full_held = blank(adapter, check, config.delimiters, longest, initial, seed + 1)
    partly_held = partial(adapter, check, config.delimiters, longest, seed + 1)
    score, base = _scores(end, full_held, prior, len(check), "wholly masked canvases")
    partly_score, partly_base = _scores(end, partly_held, prior, len(check), "partly seen answers")
    options: dict[str, Any] = {
        "initial_length": initial,
        "hazard": tuple(round(h, 6) for h in hazard.hazard),
        "end_model": end.end_model,
        "beyond": end.beyond,
        "end_temper": end.end_temper,
        "end_platt": _rounded(end.end_platt),
        "tail_truncated": _rounded(end.tail_truncated),
        "tail_fits": _rounded(end.tail_fits),
        "end_noise": end.end_noise,
        "end_tilt": end.end_tilt,
        "end_share": tuple(_rounded(knot) for knot in end.end_share),
    }
    greedy = config.replace(
        **options,
        max_new_tokens=longest,
        confidence_temperature=1.0,
        error_curve=(),
        sure_entropy=0.0,
    )
    watched = [commits(adapter, greedy, part, seed + i) for i, part in enumerate(parts)]
    curves, errors = fit_errors(*watched)
    options |= curves
    options["coupling_profile"] = fit_coupling(adapter, some, longest, seed)
    options |= fit_borders(
        full, config.delimiters, config.boundary_weights, end, prior, config.block_max
    )
    report: dict[str, Any] = {
        "answers": len(train),
        "chosen_on": len(chosen),
        "held_out": len(held),
        "hazard_bin": hazard.width,
        "end_log_score": round(score, 4),
        "prior_log_score": round(base, 4),
        "end_log_score_partly_seen": round(partly_score, 4),
        "prior_log_score_partly_seen": round(partly_base, 4),
        **errors,
    }
    if sweep:
        tuned = config.replace(**options, max_new_tokens=longest)
        swept = chosen[:SWEPT]
        # One of a few settings: what the fits have seen serves as well, and there is more of it.
        drawn = [*chosen, *train][: 3 * SWEPT]
        options["error_step"], report["error_steps"] = sweep_error(adapter, tuned, swept, seed)
        noise, report["token_noises"] = fit_token_noise(adapter, tuned, drawn, check, seed)
        options["token_noise"] = noise
        tuned = tuned.replace(token_noise=noise)
        sampling, report["gammas"] = sweep_sampling(adapter, tuned, drawn, seed)
        options |= sampling
    found = Calibration(checksum(network), options, report)
    if out is not None:
        found.save(out)
    return found


def _scores(
    end: EndModel, states: States, prior: LengthPrior, answers: int, where: str
) -> tuple[float, float]:
    """Mean log score of the end and of the prior alone; an end that adds nothing is refused."""
    own, alone = log_score(end, states, prior), prior_score(states, prior)
    score, base = float(own.mean()), float(alone.mean())
    # A fit that leans on the prior wholly is never much worse than it, and better by chance. The
    # states of one answer say the same thing, so answers are counted.
    error = float((own - alone).std()) / answers**0.5
    if not score > base + error:
        raise InputError(
            f"calibration refused: on {where} held out, the end posterior scores {score:.3f} nats, "
            f"not a standard error better than the length prior's {base:.3f}; this model's EOS "
            "marginals say nothing about the end (or the answers are not the model's)"
        )
    return score, base


def first_canvas(
    prior: LengthPrior, longest: int, cost_truncation: float, cost_position: float
) -> int:
    """The canvas to begin with: argmin over W of c_tr P(E > W) + c_pos W, one forward's price."""
    width = torch.arange(longest + 1)
    cost = cost_truncation * prior.log_survival(longest).exp() + cost_position * width
    return max(int(cost.argmin()), 1)


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in values)
