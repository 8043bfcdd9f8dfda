"""Inputs of attention over live heads and blocks, and the loop that says what it must be."""

import math
from typing import Any

import torch
from torch import Tensor

from probcomp.kernels import ScoreBlocks
from tests.kernels.supports import generator

WIDTH = 8


def inputs(
    heads: int, groups: int, lengths: tuple[int, int], share: float | None, seed: int,
    dtype: torch.dtype = torch.float64, width: int = WIDTH,
) -> dict[str, Any]:  # fmt: skip
    """Two sequences; a random key-value head for each query head; random live 16 x 32 blocks."""
    rng = generator(seed)
    lq, lk = lengths

    def normal(n: int, length: int) -> Tensor:
        return torch.randn(2, n, length, width, generator=rng, dtype=torch.float64).to(dtype)

    blocks = None
    if share is not None:
        live = torch.rand(heads, -(-lq // 16), -(-lk // 32), generator=rng) < share
        blocks = ScoreBlocks.of(live, (16, 32))
    return {
        "query": normal(heads, lq), "key": normal(groups, lk), "value": normal(groups, lk),
        "kv_head": torch.randint(0, groups, (heads,), generator=rng), "blocks": blocks,
    }  # fmt: skip


def naive(
    query: Tensor, key: Tensor, value: Tensor, kv_head: Tensor, blocks: ScoreBlocks | None,
    causal: bool = False,
) -> Tensor:  # fmt: skip
    """One query at a time, over the keys it may read, in float64."""
    out = torch.zeros(query.shape, dtype=torch.float64)
    batch, heads, lq, width = query.shape
    lk = key.shape[2]
    for b in range(batch):
        for h in range(heads):
            g = int(kv_head[h])
            for i in range(lq):
                keys = [
                    j for j in range(lk)
                    if (not causal or j <= i + lk - lq)
                    and (blocks is None or bool(blocks.live[h, i // 16, j // 32]))
                ]  # fmt: skip
                if keys:
                    k, v = key[b, g, keys].double(), value[b, g, keys].double()
                    scores = k @ query[b, h, i].double() / math.sqrt(width)
                    out[b, h, i] = scores.softmax(0) @ v
    return out
