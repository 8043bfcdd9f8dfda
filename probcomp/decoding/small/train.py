"""Train the embedded model: ``python -m probcomp.decoding.small.train --out DIR``.

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
from probcomp.decoding.small.tasks import TASKS, Example, make_examples
from probcomp.decoding.small.tokenizer import CharacterTokenizer
from probcomp.storage import write_json, write_tensors

# Copying and the random record are learnt early; carries and walks take the most steps.
MIX = ("add", "walk", "add", "json", "walk", "add", "walk", "record")
CANVAS = 32  # longest canvas met in training; the longest answer takes 25 tokens


def collate(
    examples: list[Example], tokenizer: CharacterTokenizer, rng: random.Random
) -> tuple[Tensor, Tensor, Tensor]:
    """ids [batch, n], key mask [batch, n], answer mask [batch, n] with a random canvas per row."""
    prompts = [tokenizer.encode(example.prompt) for example in examples]
    answers = [tokenizer.encode(example.answer) for example in examples]
    canvas = [rng.randint(len(answer) + 1, CANVAS) for answer in answers]
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


def corrupt(ids: Tensor, answer: Tensor, mask_id: int, generator: torch.Generator) -> Tensor:
    """Which answer positions to mask: rate t stratified over the batch, at least one a row."""
    batch = len(ids)
    t = (torch.rand(1, generator=generator) + torch.arange(batch) / batch) % 1
    u = torch.rand(ids.shape, generator=generator).masked_fill(~answer, 2.0)
    chosen = u < t[torch.randperm(batch, generator=generator), None]
    return chosen | (u == u.min(dim=1, keepdim=True).values)


def accuracy(model: SmallDenoiser, tokenizer: CharacterTokenizer, task: str) -> float:
    """Share of exact answers when the most confident token is committed one at a time."""
    examples = make_examples(task, 64, 7, test=True)
    ids, keys, answer = collate(examples, tokenizer, random.Random(7))
    truth = ids.clone()
    ids = ids.masked_fill(answer, tokenizer.mask_token_id)
    rows = torch.arange(len(ids))
    with torch.no_grad():
        while (masked := ids == tokenizer.mask_token_id).any():
            confidence, token = model(ids, keys).softmax(-1).max(-1)
            best = confidence.masked_fill(~masked, -1).argmax(1)
            ids[rows, best] = torch.where(masked[rows, best], token[rows, best], ids[rows, best])
    return float((ids == truth).all(1).float().mean())


def train(out: Path, *, seed: int = 0, steps: int = 6000, batch: int = 64, rate: float = 2e-3):
    """Train and write ``small.safetensors`` and ``training.json`` (configuration and curve)."""
    tokenizer = CharacterTokenizer()
    torch.manual_seed(seed)
    model = SmallDenoiser(SmallConfig(vocab_size=tokenizer.vocab_size))
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
        examples = [rng.choice(pools[MIX[i % len(MIX)]]) for i in range(batch)]
        ids, keys, answer = collate(examples, tokenizer, rng)
        chosen = corrupt(ids, answer, tokenizer.mask_token_id, generator)
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
                    "curve": curve,
                },
            )


def main() -> None:
    """Command line of the training script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    train(options.out, seed=options.seed, steps=options.steps, batch=options.batch)


if __name__ == "__main__":
    main()
