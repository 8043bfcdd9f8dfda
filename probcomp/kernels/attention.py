"""Attention over the heads and the blocks of scores that survived."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn import functional

from probcomp.errors import InputError, unknown
from probcomp.kernels.dispatch import on_triton
from probcomp.kernels.flops import note_counter

BLOCK = (64, 64)


@dataclass(frozen=True, eq=False)
class ScoreBlocks:
    """Which blocks of the score matrix live, as lists; made once, read by every call.

    Attributes:
        off: int32 ``[h, R + 1]``, where the list of each block row starts and ends; h is the
            number of heads, or 1 where all share the mask.
        blk: int32, the live key blocks of each block row, rising.
        block: Queries and keys of a block.
        live: The mask that this was made of, bool ``[h, R, C]``.
    """

    off: Tensor
    blk: Tensor
    block: tuple[int, int]
    live: Tensor

    @classmethod
    def of(cls, live: Tensor, block: tuple[int, int] = BLOCK) -> "ScoreBlocks":
        """Lists of a mask of blocks, bool ``[R, C]`` or ``[heads, R, C]``.

        Raises:
            InputError: Another dtype or number of dimensions, or sides of a block that are not
                powers of two from 16 on.
        """
        if live.dtype != torch.bool or live.dim() not in (2, 3):
            raise InputError(
                f"live must be bool [R, C] or [heads, R, C], got {live.dtype} {list(live.shape)}"
            )
        if any(side < 16 or side & (side - 1) for side in block):
            raise InputError(f"sides of a block must be powers of two from 16 on, got {block}")
        live = live if live.dim() == 3 else live[None]
        heads, rows, _ = live.shape
        ends = live.sum(-1).flatten().cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends])
        place = torch.arange(heads, device=live.device)[:, None] * rows
        off = starts[place + torch.arange(rows + 1, device=live.device)]
        return cls(off.int(), live.nonzero()[:, 2].int(), block, live)

    @property
    def density(self) -> float:
        """Share of the blocks that live."""
        return float(self.live.float().mean())


def live_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    kv_head: Tensor | None = None,
    blocks: ScoreBlocks | None = None,
    causal: bool = False,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""Softmax attention in which heads and blocks of scores may be missing.

    .. math:: o_{hi} = \sum_j \mathrm{softmax}_{j \in L_h(i)}(s\, q_{hi}\cdot k_{g(h) j})\,
              v_{g(h) j}

    Heads that were removed are simply not in ``query``: survivors name their key-value head, so a
    group may keep any number of its query heads, which `scaled_dot_product_attention` does not
    allow without copies.

    Args:
        query: ``[B, H, LQ, D]``, the surviving query heads.
        key, value: ``[B, G, LK, D]``, the surviving key-value heads.
        kv_head: int64 ``[H]``, the key-value head of each query head; by default H is a multiple
            of G and neighbours share.
        blocks: Live blocks of scores; all by default. A query that may read no key gives 0.
        causal: Query i reads keys up to ``i + LK - LQ``, inside live blocks.
        scale: Of the scores; ``1 / sqrt(D)`` by default.
        backend: ``"auto"``, ``"torch"`` (differentiable) or ``"triton"`` (a GPU).

    Returns:
        ``[B, H, LQ, D]`` in the dtype of ``query``.

    Raises:
        InputError: Shapes that do not fit, or gradients asked of ``"triton"``.
    """
    if backend not in ("auto", "torch", "triton"):
        raise unknown("attention backend", backend, ("auto", "torch", "triton"))
    _check(query, key, value, kv_head, blocks)
    heads, groups = query.shape[1], key.shape[1]
    if kv_head is None:
        kv_head = torch.arange(heads, device=query.device) // max(heads // groups, 1)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    if backend == "triton" and learns:
        raise InputError("the attention kernel has no gradient; use backend='torch'")
    if backend == "triton" or (backend == "auto" and on_triton(query) and not learns):
        note_counter()
        off, blk, block = (None, None, BLOCK) if blocks is None else _lists(blocks)
        return attention_forward(query, key, value, kv_head, off, blk, list(block), causal, scale)
    return _dense(query, key, value, kv_head, blocks, causal, scale)


def _lists(blocks: ScoreBlocks) -> tuple[Tensor, Tensor, tuple[int, int]]:
    return blocks.off, blocks.blk, blocks.block


@custom_op("probcomp::attention_forward", mutates_args=())
def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kv_head: Tensor,
    off: Tensor | None,
    blk: Tensor | None,
    block: list[int],
    causal: bool,
    scale: float,
) -> Tensor:
    """The Triton kernel as an operator."""
    from probcomp.kernels.gpu.attention import launch

    return launch(query, key, value, kv_head, off, blk, (block[0], block[1]), causal, scale)


@attention_forward.register_fake
def _(query: Tensor, *rest: Any) -> Tensor:
    return query.new_empty(query.shape)


def _dense(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kv_head: Tensor,
    blocks: ScoreBlocks | None,
    causal: bool,
    scale: float,
) -> Tensor:
    """The vendor's attention with one key-value head a query head, and the mask written out."""
    lq, lk = query.shape[2], key.shape[2]
    mask = None
    if causal:
        mask = torch.ones(lq, lk, dtype=torch.bool, device=query.device).tril(lk - lq)[None]
    if blocks is not None:
        tall, wide = blocks.block
        whole = blocks.live.repeat_interleave(tall, 1).repeat_interleave(wide, 2)[:, :lq, :lk]
        mask = whole if mask is None else mask & whole
    key, value = key.index_select(1, kv_head), value.index_select(1, kv_head)
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    if mask is None:
        return out
    return out.masked_fill(~mask.any(-1)[..., None], 0.0)  # a softmax over nothing is NaN


def _check(
    query: Tensor, key: Tensor, value: Tensor, kv_head: Tensor | None, blocks: ScoreBlocks | None
) -> None:
    shapes = f"query {list(query.shape)}, key {list(key.shape)}, value {list(value.shape)}"
    fits = query.dim() == key.dim() == 4 and key.shape == value.shape
    if not fits or query.shape[0] != key.shape[0] or query.shape[3] != key.shape[3]:
        raise InputError(f"expected [B, H, LQ, D] and two of [B, G, LK, D], got {shapes}")
    if key.shape[1] == 0 or key.shape[2] == 0:
        raise InputError(f"attention needs at least one key-value head and one key, got {shapes}")
    heads, groups = query.shape[1], key.shape[1]
    if kv_head is None:
        if heads % groups:
            raise InputError(
                f"{heads} query heads do not divide among {groups} key-value heads: "
                "give kv_head, the key-value head of each"
            )
    elif kv_head.shape != (heads,) or kv_head.is_floating_point():
        raise InputError(f"kv_head must be [{heads}] integers, got {list(kv_head.shape)}")
    elif _readable(kv_head) and not (int(kv_head.min()) >= 0 and int(kv_head.max()) < groups):
        raise InputError(f"kv_head must lie in [0, {groups})")
    if blocks is not None:
        have = tuple(blocks.live.shape)
        want = tuple(
            -(-size // side) for size, side in zip((query.shape[2], key.shape[2]), blocks.block)
        )
        if have[1:] != want or have[0] not in (1, heads):
            raise InputError(
                f"blocks of {blocks.block} for {shapes} need a mask [1 or {heads}, {want[0]}, "
                f"{want[1]}], got {list(have)}"
            )


def _readable(index: Tensor) -> bool:
    """Whether its values can be looked at without waiting for a GPU or breaking a traced graph."""
    return index.numel() > 0 and index.device.type == "cpu" and not torch.compiler.is_compiling()
