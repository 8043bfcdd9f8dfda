"""Train the embedded model: ``python -m probcomp.decoding.small.train --out DIR``.

Objective (LLaDA supervised fine-tuning, arXiv 2502.09992): mask some answer tokens, predict them.
The shipped model was trained with uniform weights, the mean cross-entropy over what was masked;
``--weighting inverse`` is the published 1/t (`masked_loss`). The answer is padded
with EOS to its canvas and that filler counts, so the EOS marginal at position i is
P(end <= i | what is visible). Rows of a batch are of three kinds:

half      the canvas is drawn without looking at the answer, which is cut where it does not fit;
          each token is masked with probability t ~ U(0, 1), stratified over the batch
quarter   the same canvas, masked wholly: there the law of the end is read
quarter   the canvas stops at the end of the answer and shows it: text of a given length. Its size
          gives the length away only where the end is visible, so no hidden end is biased by it

Matrices are stepped by Muon (Jordan et al. 2024, as in `torch.optim`), the rest by AdamW. A run
that is cut goes on from its last checkpoint (``state.safetensors``) and ends at the same weights.
"""

import argparse
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from probcomp.decoding.small.network import SmallConfig, SmallDenoiser
from probcomp.decoding.small.resuming import load_state, save_state
from probcomp.decoding.small.tasks import TASKS, Example, is_valid, make_examples
from probcomp.decoding.small.tokenizer import CharacterTokenizer
from probcomp.errors import unknown
from probcomp.storage import write_json, write_tensors

MIX = ("record", "add", "json", "record", "add", "json", "record", "add")
SHORTEST, CANVAS = 4, 32  # canvases met in training; the longest answer takes 25 tokens
KINDS = ("open", "whole", "open", "told")
POOL = 40_000  # examples of each task that batches are drawn from
EVERY = 250  # steps between checkpoints
WEIGHTINGS = ("uniform", "inverse")


def collate(
    examples: list[Example], tokenizer: CharacterTokenizer, canvas: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """ids [batch, n], key mask [batch, n], answer mask [batch, n]; prompts end in one column.

    Each answer is filled with EOS to its ``canvas`` or cut to it.
    """
    prompts = [tokenizer.encode(example.prompt) for example in examples]
    left, right = max(map(len, prompts)), max(canvas)
    ids = torch.full((len(examples), left + right), tokenizer.pad_token_id)
    answer_mask = torch.zeros(ids.shape, dtype=torch.bool)
    key_mask = torch.zeros(ids.shape, dtype=torch.bool)
    for i, (prompt, example, size) in enumerate(zip(prompts, examples, canvas)):
        answer = tokenizer.encode(example.answer)[:size]
        row = prompt + answer + [tokenizer.eos_token_id] * (size - len(answer))
        begin = left - len(prompt)
        ids[i, begin : begin + len(row)] = torch.tensor(row)
        key_mask[i, begin : begin + len(row)] = True
        answer_mask[i, left : begin + len(row)] = True
    return ids, key_mask, answer_mask


def corrupt(
    ids: Tensor, answer: Tensor, kinds: list[str], eos: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(masked [batch, n], inclusion [batch]): answer positions by the kind of each row, at least
    one of them, and the chance of each that may be masked to be: t + (1 - t)^n / n of n, since
    where none falls below t one is taken."""
    batch = len(ids)
    t = (torch.rand(1, generator=rng) + torch.randperm(batch, generator=rng) / batch) % 1
    t = torch.where(torch.tensor([kind == "whole" for kind in kinds]), 1.0, t)
    told = torch.tensor([kind == "told" for kind in kinds])
    free = answer & ~(told[:, None] & (ids == eos))
    u = torch.rand(ids.shape, generator=rng).masked_fill(~free, 2.0)
    n = free.sum(1)
    masked = (u < t[:, None]) | (u == u.min(dim=1, keepdim=True).values)
    return masked, t + (1 - t) ** n / n.clamp(min=1)


def masked_loss(
    logits: Tensor, ids: Tensor, chosen: Tensor, answer: Tensor, inclusion: Tensor | None = None
) -> Tensor:
    """Cross-entropy of masked tokens, nats a token: their mean, or weighted by the chance of each

        1 / (batch answer tokens) sum_rows 1/inclusion sum_masked -log p(token),

    which has the mean of the whole cross-entropy of what may be masked at every rate. Inclusion is
    the published t (LLaDA, eq. 5) but for the token that `corrupt` masks where there is none.

    Args:
        logits: [batch, n, vocabulary]; ``ids``, ``chosen`` (masked), ``answer``: [batch, n].
        inclusion: of each row, [batch]; uniform weights when None.
    """
    loss = F.cross_entropy(logits[chosen], ids[chosen], reduction="none")
    if inclusion is None:
        return loss.mean()
    row = chosen.nonzero()[:, 0]
    return (loss / inclusion[row]).sum() / answer.sum()


def draw_batch(
    pools: dict[str, list[Example]], tokenizer: CharacterTokenizer, size: int, seed: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """ids, key mask, masked and answer positions, each [size, n], and the inclusion of each row
    [size], of the batch that ``seed`` names."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    examples = [rng.choice(pools[MIX[i % len(MIX)]]) for i in range(size)]
    # Shifted by one each time the mix comes round, so that every task meets every kind.
    kinds = [KINDS[(i + i // len(MIX)) % len(KINDS)] for i in range(size)]
    canvas = [
        len(example.answer) + 1 if kind == "told" else rng.randint(SHORTEST, CANVAS)
        for example, kind in zip(examples, kinds)
    ]
    ids, keys, answer = collate(examples, tokenizer, canvas)
    chosen, inclusion = corrupt(ids, answer, kinds, tokenizer.eos_token_id, generator)
    return ids, keys, chosen, answer, inclusion


@torch.no_grad()
def one_by_one(
    model: SmallDenoiser,
    tokenizer: CharacterTokenizer,
    task: str,
    *,
    drawn: bool,
    count: int = 64,
    seed: int = 7,
) -> float:
    """Share of right answers on dev prompts, one token a forward, with the end shown.

    The surest token first, or with ``drawn`` a token drawn at a random place: what a decoder can
    reach that commits several tokens at a time and is not told the length.
    """
    examples = make_examples(task, count, seed, "dev")
    canvas = [len(example.answer) + 1 for example in examples]
    ids, keys, answer = collate(examples, tokenizer, canvas)
    generator = torch.Generator().manual_seed(seed)
    ids = ids.masked_fill(answer & (ids != tokenizer.eos_token_id), tokenizer.mask_token_id)
    order = torch.rand(ids.shape, generator=generator)
    rows = torch.arange(len(ids))
    while (masked := ids == tokenizer.mask_token_id).any():
        p = model(ids, keys).softmax(-1)
        p[..., [tokenizer.mask_token_id, tokenizer.pad_token_id]] = 0.0
        at = (order if drawn else p.max(-1).values).masked_fill(~masked, -1).argmax(1)
        here = p[rows, at]
        token = torch.multinomial(here, 1, generator=generator)[:, 0] if drawn else here.argmax(-1)
        ids[rows, at] = torch.where(masked[rows, at], token, ids[rows, at])
    texts = (tokenizer.decode(row[where][:-1]) for row, where in zip(ids, answer))
    return sum(is_valid(e, text) for e, text in zip(examples, texts)) / count


def optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def train(
    out: Path,
    *,
    seed: int = 0,
    steps: int = 3600,
    batch: int = 64,
    rate: float = 3e-3,
    weighting: str = "uniform",
) -> None:
    """Train and write ``small.safetensors`` and ``training.json`` (configuration and curve).

    A run that was cut goes on from ``state.safetensors`` in the same folder; one of other settings
    there is refused.

    The learning rate warms up over 100 steps and falls to 0 along a cosine. ``weighting`` of the
    loss is uniform or inverse (1/t).
    """
    if weighting not in WEIGHTINGS:
        raise unknown("weighting", weighting, WEIGHTINGS)
    tokenizer = CharacterTokenizer()
    torch.manual_seed(seed)
    model = SmallDenoiser(SmallConfig(vocab_size=tokenizer.vocab_size))
    steppers = optimizers(model)
    pools = {task: make_examples(task, POOL, seed) for task in TASKS}
    first, curve, spent, running = 0, [], 0.0, math.nan
    settings = {"seed": seed, "steps": steps, "batch": batch, "rate": rate, "mix": MIX}
    settings |= {"kinds": KINDS, "canvas": [SHORTEST, CANVAS], "weighting": weighting}
    state = out / "state.safetensors"
    if state.is_file():
        saved = load_state(state, model, steppers, {**settings, "pool": POOL})
        first, curve, spent, running = (saved[k] for k in ("step", "curve", "seconds", "loss"))
    began = time.time() - spent
    for step in range(first, steps):
        decay = 0.5 + 0.5 * math.cos(math.pi * step / steps)
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = rate * min((step + 1) / 100, decay)
        ids, keys, chosen, answer, inclusion = draw_batch(pools, tokenizer, batch, f"{seed}-{step}")
        logits = model(ids.masked_fill(chosen, tokenizer.mask_token_id), keys)
        loss = masked_loss(
            logits, ids, chosen, answer, inclusion if weighting == "inverse" else None
        )
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
        running = loss.item() if math.isnan(running) else 0.98 * running + 0.02 * loss.item()
        last = step + 1 == steps
        if (step + 1) % EVERY and not last:
            continue
        entry: dict[str, Any] = {"step": step + 1, "loss": round(running, 5)}
        if (step + 1) % (4 * EVERY) == 0 or last:
            model.eval()
            for task in TASKS:
                right = one_by_one(model, tokenizer, task, drawn=task == "record")
                entry[task] = round(right, 3)
            model.train()
        entry["seconds"] = round(time.time() - began)
        curve.append(entry)
        print(entry, flush=True)
        parameters = sum(p.numel() for p in model.parameters())
        write_tensors(out / "small.safetensors", model.state_dict())
        write_json(out / "training.json", {**settings, "parameters": parameters, "curve": curve})
        progress = {"step": step + 1, "curve": curve, "loss": running}
        progress["seconds"] = time.time() - began
        save_state(state, model, steppers, {**settings, "pool": POOL}, progress)


def main() -> None:
    """Command line of the training script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--weighting", choices=WEIGHTINGS, default="uniform")
    options = parser.parse_args()
    train(
        options.out,
        seed=options.seed,
        steps=options.steps,
        batch=options.batch,
        rate=options.rate,
        weighting=options.weighting,
    )


if __name__ == "__main__":
    main()
