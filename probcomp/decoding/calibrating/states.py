"""What the model says about dev answers: one forward for each prompt and canvas."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.decoding.adapters.base import Adapter
from probcomp.decoding.features import Features, read_features

Pair = tuple[list[int], list[int]]  # ids of a prompt, ids of its answer without EOS
SHARES = (0.5, 0.75, 1.0, 1.5)  # of another answer's length
CANVASES = 1 + len(SHARES)  # wholly masked ones an answer
FIELDS = ("token", "confidence", "top", "top_prob", "entropy", "eos", "delimiter")


@dataclass(frozen=True)
class States:
    """Canvases with their truth: [states] or [states, width], CPU.

    ``end`` the true end position counted from 1 (it may lie past ``length``, the canvas),
    ``truth`` the answer filled with EOS, ``masked`` what the model did not see.
    """

    end: Tensor
    length: Tensor
    truth: Tensor
    masked: Tensor
    features: Features

    @property
    def fits(self) -> Tensor:
        return self.end <= self.length

    @property
    def column(self) -> Tensor:
        """The true column of an end posterior: end - 1, or the canvas length for "beyond"."""
        return torch.minimum(self.end - 1, self.length)

    @property
    def valid(self) -> Tensor:
        return torch.arange(self.truth.shape[1]) < self.length[:, None]

    @property
    def content(self) -> Tensor:
        return torch.arange(self.truth.shape[1]) < (self.end - 1)[:, None]


def observe(
    adapter: Adapter,
    pairs: Sequence[Pair],
    lengths: Sequence[int],
    hidden: Sequence[Tensor] | None = None,
    delimiters: Sequence[tuple[int, float]] = (),
    batch: int = 16,
    ended: bool = False,
) -> States:
    """One forward for each pair on its canvas.

    Args:
        lengths: canvas of each pair; an answer that is longer is cut.
        hidden: boolean [length] per pair, what is masked; everything when None.
        batch: canvases per forward.
        ended: whether the end is known to be the canvas's last position: no other end token is
            possible then, as where a decoder has drawn the end.
    """
    width, eos, mask = max(lengths), adapter.eos_ids[0], adapter.mask_id
    truth = torch.full((len(pairs), width), eos)
    masked = torch.zeros(len(pairs), width, dtype=torch.bool)
    for i, ((_, answer), size) in enumerate(zip(pairs, lengths)):
        kept = answer[:size]
        truth[i, : len(kept)] = torch.tensor(kept, dtype=torch.long)
        masked[i, :size] = True if hidden is None else hidden[i]
    length = torch.tensor(list(lengths))
    end = torch.tensor([len(answer) + 1 for _, answer in pairs])
    columns: dict[str, list[Tensor]] = {name: [] for name in FIELDS}
    # Alike sizes go together, so that a forward is not spent on padding.
    order = sorted(range(len(pairs)), key=lambda i: (len(pairs[i][0]), lengths[i]))
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        left = max(len(pairs[i][0]) for i in rows)
        right = max(lengths[i] for i in rows)
        ids = torch.full((len(rows), left + right), adapter.pad_id)
        keys = torch.zeros(ids.shape, dtype=torch.bool)
        for r, i in enumerate(rows):
            prompt, size = pairs[i][0], lengths[i]
            ids[r, left - len(prompt) : left] = torch.tensor(prompt, dtype=torch.long)
            ids[r, left : left + size] = torch.where(masked[i, :size], mask, truth[i, :size])
            keys[r, left - len(prompt) : left + size] = True
        logits = adapter.forward(ids, keys, left).logits
        if ended:
            ends = torch.tensor(adapter.eos_ids, device=logits.device)
            logits = logits.index_fill(-1, ends, -torch.inf)
        found = read_features(logits, adapter.eos_ids, delimiters)
        for name in FIELDS:
            value = getattr(found, name).cpu()
            columns[name].append(torch.nn.functional.pad(value, (0, width - right)))
    back = torch.tensor(order).argsort()
    features = Features(**{name: torch.cat(columns[name])[back] for name in FIELDS})
    return States(end, length, truth, masked, features)


def blank(
    adapter: Adapter,
    pairs: Sequence[Pair],
    delimiters: Sequence[tuple[int, float]],
    longest: int,
    initial: int,
    seed: int,
) -> States:
    """Wholly masked canvases: the ``initial`` one, and four made to fit other answers.

    Those are 1/2, 3/4, 1 and 1.5 times the length of an answer drawn from the others. Were they
    multiples of the true length, the canvas would give the end away, and a posterior fitted there
    would be wrong on canvases whose size was chosen without knowing it. None is under half the
    initial one: a decoder never starts from such a canvas.
    """
    rng = random.Random(seed)
    chosen, lengths = [], []
    for i, pair in enumerate(pairs):
        others = [*pairs[:i], *pairs[i + 1 :]]
        sizes = [round(share * (len(rng.choice(others)[1]) + 1)) for share in SHARES]
        for size in (initial, *sizes):
            chosen.append(pair)
            lengths.append(min(max(size, initial // 2, 1), longest))
    return observe(adapter, chosen, lengths, delimiters=delimiters)


def partial(
    adapter: Adapter,
    pairs: Sequence[Pair],
    delimiters: Sequence[tuple[int, float]],
    longest: int,
    seed: int,
    repeats: int = 10,
) -> States:
    """Canvases that fit, of one to two times the answer, with a random share masked."""
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    chosen, lengths, hidden = [], [], []
    for pair in pairs:
        need = len(pair[1]) + 1
        if need > longest:
            continue
        for _ in range(repeats):
            size = min(rng.randint(need, 2 * need), longest)
            rate = torch.rand(1, generator=generator)
            where = torch.rand(size, generator=generator) < rate
            where[int(torch.randint(size, (1,), generator=generator))] = True
            chosen.append(pair)
            lengths.append(size)
            hidden.append(where)
    return observe(adapter, chosen, lengths, hidden, delimiters)
