"""Denoisers of bounded depth: right about what they can work out in one forward, unsure past it.

An exact oracle solves a determined problem in one forward, so it cannot tell decoders apart. A
network of few layers cannot. These two know the answer only ``depth`` steps of reasoning away
from what is visible, and give the rest uniform chances.
"""

import torch
from torch import Tensor

from probcomp.decoding.adapters.callable import CallableAdapter
from probcomp.decoding.oracles.laws import UNITS


def shallow_chain(
    modulus: int, factor: int, offset: int, length: int, depth: int = 1
) -> CallableAdapter:
    """x_{i+1} = factor x_i + offset (mod modulus) after a one-token prompt x_0, then EOS.

    Position i is certain when some x_{i-d}, d <= depth, is visible; otherwise it is uniform.
    Where the text ends is known from the start: the hard part is its content.
    """
    eos, mask = modulus, modulus + 1

    def logits(ids: Tensor, keys: Tensor) -> Tensor:
        batch, n = ids.shape
        p = torch.full((batch, n, modulus + 2), 0.0, dtype=torch.float64)
        p[..., :modulus] = 1.0 / modulus
        start = keys.long().argmax(1)
        place = torch.arange(n)[None] - start[:, None]  # 0 is the prompt
        value = torch.where(ids < modulus, ids, -1)
        for _ in range(depth):
            before = torch.nn.functional.pad(value[:, :-1], (1, 0), value=-1)
            known = (value < 0) & (before >= 0)
            value = torch.where(known, (factor * before + offset) % modulus, value)
        sure = torch.nn.functional.one_hot(value.clamp(min=0), modulus + 2).double()
        p = torch.where((value >= 0)[..., None], sure, p)
        ended = (place > length)[..., None]
        end = torch.zeros(modulus + 2, dtype=torch.float64)
        end[eos] = 1.0
        return torch.where(ended, end, p).clamp(min=1e-300).log()

    return CallableAdapter(
        logits, mask_id=mask, eos_ids=eos, vocab_size=modulus + 2, banned=(mask,)
    )


def chain_text(first: int, modulus: int, factor: int, offset: int, length: int) -> list[int]:
    """The right content after the prompt ``first``."""
    found, x = [], first
    for _ in range(length):
        x = (factor * x + offset) % modulus
        found.append(x)
    return found


def shallow_sudoku(depth: int = 1) -> CallableAdapter:
    """4 x 4 Sudoku by elimination: a cell's marginal is uniform over what its peers leave.

    ``depth`` rounds: cells with one candidate left count as visible in the next. The 16 cells are
    the last 16 positions; EOS (4) never occurs, 5 is the mask.
    """
    peers = torch.zeros(16, 16, dtype=torch.bool)
    for unit in UNITS:
        for i in unit:
            peers[i, list(unit)] = True
    peers.fill_diagonal_(False)

    def logits(ids: Tensor, keys: Tensor) -> Tensor:
        batch, n = ids.shape
        grid = ids[:, n - 16 :]
        value = torch.where(grid < 4, grid, -1)
        possible = torch.ones(batch, 16, 4, dtype=torch.float64)
        for _ in range(depth):
            seen = torch.nn.functional.one_hot(value.clamp(min=0), 4) * (value >= 0)[..., None]
            possible = ((peers.long() @ seen) == 0).double()
            single = (value < 0) & (possible.sum(-1) == 1)
            value = torch.where(single, possible.argmax(-1), value)
        stuck = possible.sum(-1, keepdim=True) == 0
        p = torch.where(stuck, 0.25, possible / possible.sum(-1, keepdim=True).clamp(min=1.0))
        full = torch.full((batch, n, 6), 1e-300, dtype=torch.float64)
        full[:, n - 16 :, :4] = p.clamp(min=1e-300)
        full[:, : n - 16, 0] = 1.0
        return full.log()

    return CallableAdapter(logits, mask_id=5, eos_ids=4, vocab_size=6, banned=(5,))
