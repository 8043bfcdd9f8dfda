"""Train the embedded model: ``python -m probcomp.decoding.small.train --out DIR``.

``--refine FOLDER`` goes on from the weights in FOLDER with a mix that is half ``record``: a law is
learnt more slowly than a rule. ``--open`` draws canvases without looking at the answer, cuts what
does not fit, and masks a third of the answers wholly: that is where the law of the end is read.
``--average FOLDER --share S`` writes S times the weights in FOLDER and 1 - S those it was refined
from: a short last part disturbs what was learnt before it. ``training.json`` lists the parts a
checkpoint went through.

Objective (LLaDA supervised fine-tuning, arXiv 2502.09992, with uniform weights): per row
t ~ U(0, 1), stratified over the batch; each answer token is masked with probability t; the loss
is the mean cross-entropy over masked tokens. The answer is padded with EOS to a canvas of random
length, and that filler counts, so the EOS marginal at position i is P(end <= i | what is visible).
"""

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from probcomp.decoding.small.network import SmallConfig, SmallDenoiser
from probcomp.decoding.small.tasks import TASKS, Example, is_valid, make_examples
from probcomp.decoding.small.tokenizer import CharacterTokenizer
from probcomp.storage import read_json, read_tensors, write_json, write_tensors

# Copying and the random record are learnt early; carries and walks take the most steps.
MIX = ("add", "walk", "add", "json", "walk", "add", "walk", "record")
REFINE = ("record", "add", "record", "json", "record", "walk", "record", "add")
SHORTEST, CANVAS = 4, 32  # canvases met in training; the longest answer takes 25 tokens


def collate(
    examples: list[Example],
    tokenizer: CharacterTokenizer,
    rng: random.Random,
    *,
    spare: int | None = None,
    open_: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """ids [batch, n], key mask [batch, n], answer mask [batch, n].

    A canvas holds its answer, one EOS, and ``spare`` positions more, by default as many as there
    are up to `CANVAS`. Drawn to fit, its size says something about the length: long answers are
    over-represented on every canvas (by 1 / (33 - E) for an end at E), and the EOS marginals
    carry that. With ``open_`` the size is drawn alone and the answer cut where it does not fit.
    """
    prompts = [tokenizer.encode(example.prompt) for example in examples]
    answers = [tokenizer.encode(example.answer) for example in examples]
    canvas = [
        rng.randint(len(answer) + 1, CANVAS if spare is None else len(answer) + 1 + spare)
        for answer in answers
    ]
    if open_:
        canvas = [rng.randint(SHORTEST, CANVAS) for _ in answers]
        answers = [answer[:size] for answer, size in zip(answers, canvas)]
    left, right = max(map(len, prompts)), max(canvas)
    ids = torch.full((len(examples), left + right), tokenizer.pad_token_id)
    answer_mask = torch.zeros(ids.shape, dtype=torch.bool)
    key_mask = torch.zeros(ids.shape, dtype=torch.bool)
    for i, (prompt, answer, size) in enumerate(zip(prompts, answers, canvas)):
        row = prompt + answer + [tokenizer.eos_token_id] * (size - len(answer))
        begin = left - len(prompt)
        ids[i, begin : begin + len(row)] = torch.tensor(row)
        key_mask[i, begin : begin + len(row)] = True
        answer_mask[i, left : begin + len(row)] = True
    return ids, key_mask, answer_mask


def corrupt(ids: Tensor, answer: Tensor, generator: torch.Generator, whole: float = 0.0) -> Tensor:
    """Which answer positions to mask: rate t stratified over the batch, at least one a row.

    A share ``whole`` of the rows is masked wholly.
    """
    batch = len(ids)
    t = (torch.rand(1, generator=generator) + torch.arange(batch) / batch) % 1
    t = (t / max(1.0 - whole, 1e-9)).clamp(max=1.0)
    u = torch.rand(ids.shape, generator=generator).masked_fill(~answer, 2.0)
    chosen = u < t[torch.randperm(batch, generator=generator), None]
    return chosen | (u == u.min(dim=1, keepdim=True).values)


def accuracy(model: SmallDenoiser, tokenizer: CharacterTokenizer, task: str) -> float:
    """Share of exact answers when the most confident token is committed one at a time."""
    examples = make_examples(task, 64, 7, "test")
    ids, keys, answer = collate(examples, tokenizer, random.Random(7), spare=6)
    truth = ids.clone()
    ids = ids.masked_fill(answer, tokenizer.mask_token_id)
    rows = torch.arange(len(ids))
    with torch.no_grad():
        while (masked := ids == tokenizer.mask_token_id).any():
            confidence, token = model(ids, keys).softmax(-1).max(-1)
            best = confidence.masked_fill(~masked, -1).argmax(1)
            ids[rows, best] = torch.where(masked[rows, best], token[rows, best], ids[rows, best])
    return float((ids == truth).all(1).float().mean())


def draw_validity(
    model: SmallDenoiser, tokenizer: CharacterTokenizer, seed: int = 7, count: int = 128
) -> float:
    """Share of lawful ``record`` answers, one token drawn at a time in a random order.

    The canvas ends where the reference answer does, so this is the ceiling of a sampler that
    commits several tokens a forward and is not told the length.
    """
    examples = make_examples("record", count, seed, "test")
    ids, keys, answer = collate(examples, tokenizer, random.Random(seed), spare=0)
    generator = torch.Generator().manual_seed(seed)
    ids = ids.masked_fill(answer, tokenizer.mask_token_id)
    order = torch.rand(ids.shape, generator=generator)
    rows = torch.arange(len(ids))
    with torch.no_grad():
        while (masked := ids == tokenizer.mask_token_id).any():
            at = order.masked_fill(~masked, -1).argmax(1)
            logits = model(ids, keys)[rows, at]
            logits[:, [tokenizer.mask_token_id, tokenizer.pad_token_id]] = -torch.inf
            token = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
            ids[rows, at] = torch.where(masked[rows, at], token, ids[rows, at])
    right = 0
    for example, row, where in zip(examples, ids, answer):
        text = row[where].tolist()
        end = text.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in text else len(text)
        right += is_valid(example, tokenizer.decode(text[:end]))
    return right / len(examples)


def train(
    out: Path,
    *,
    seed: int = 0,
    steps: int = 5000,
    batch: int = 64,
    rate: float = 2e-3,
    refine: Path | None = None,
    open_: bool = False,
) -> None:
    """Train and write ``small.safetensors`` and ``training.json`` (configuration and curve)."""
    tokenizer = CharacterTokenizer()
    torch.manual_seed(seed)
    model = SmallDenoiser(SmallConfig(vocab_size=tokenizer.vocab_size))
    before = None
    mix = MIX
    if refine is not None:
        model.load_state_dict(read_tensors(refine / "small.safetensors"))
        before = read_json(refine / "training.json")
        mix = REFINE
        seed += 1000 + before["steps"]  # other examples and masks than in the parts before
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / 100, 0.5 + 0.5 * torch.cos(torch.tensor(3.1416 * step / steps)).item()
        ),
    )
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    pools = {task: make_examples(task, 40_000, seed) for task in TASKS}
    curve, began, running = [], time.time(), 0.0
    for step in range(steps):
        examples = [rng.choice(pools[mix[i % len(mix)]]) for i in range(batch)]
        ids, keys, answer = collate(examples, tokenizer, rng, open_=open_)
        chosen = corrupt(ids, answer, generator, 1 / 3 if open_ else 0.0)
        logits = model(ids.masked_fill(chosen, tokenizer.mask_token_id), keys)
        loss = F.cross_entropy(logits[chosen], ids[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        last = step + 1 == steps
        if (step + 1) % 250 == 0 or last:
            entry: dict[str, Any] = {
                "step": step + 1,
                "loss": round(running, 5),
                "seconds": round(time.time() - began),
            }
            if (step + 1) % 1000 == 0 or last:
                model.eval()
                entry["exact"] = {
                    task: round(accuracy(model, tokenizer, task), 3)
                    for task in TASKS
                    if task != "record"
                }
                entry["record_validity"] = round(draw_validity(model, tokenizer), 3)
                model.train()
            curve.append(entry)
            print(entry, flush=True)
            write_tensors(out / "small.safetensors", model.state_dict())
            write_json(
                out / "training.json",
                {
                    "seed": seed,
                    "steps": steps,
                    "batch": batch,
                    "rate": rate,
                    "canvas": CANVAS,
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "mix": list(mix),
                    "open": open_,
                    "curve": curve,
                    **({} if before is None else {"refined_from": before}),
                },
            )


def average(folder: Path, before: Path, share: float, out: Path) -> None:
    """Mix the weights in ``folder`` with those in ``before`` that they were refined from."""
    new, old = (read_tensors(where / "small.safetensors") for where in (folder, before))
    write_tensors(
        out / "small.safetensors",
        {name: share * new[name] + (1 - share) * old[name] for name in new},
    )
    write_json(
        out / "training.json",
        {**read_json(folder / "training.json"), "averaged_with_the_part_before": share},
    )


def main() -> None:
    """Command line of the training script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--refine", type=Path, help="go on from the weights in this folder")
    parser.add_argument("--open", action="store_true", help="canvases that may cut the answer")
    parser.add_argument("--average", type=Path, help="mix this folder with the --refine folder")
    parser.add_argument("--share", type=float, default=0.75)
    options = parser.parse_args()
    if options.average is not None:
        if options.refine is None:
            parser.error("--average needs --refine, the part before")
        average(options.average, options.refine, options.share, options.out)
        return
    train(
        options.out,
        seed=options.seed,
        steps=options.steps,
        batch=options.batch,
        rate=options.rate,
        refine=options.refine,
        open_=options.open,
    )


if __name__ == "__main__":
    main()
