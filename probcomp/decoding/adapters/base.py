"""What the loop needs of a denoiser, and the default way to look at tokens from outside."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import InputError

SUBSET = 4  # verified positions that share one re-masked row


@dataclass(frozen=True)
class Output:
    """``logits`` [batch, window, vocabulary], ``shadow`` [batch, positions, vocabulary] or None,
    and ``cost`` [batch], the forwards each row took."""

    logits: Tensor
    shadow: Tensor | None
    cost: Tensor


class Adapter(ABC):
    """One denoiser behind one call. A subclass gives `logits`; the rest is shared.

    ``banned`` ids are never predicted (the mask itself, ids without a token). ``context`` is the
    longest sequence, or None, and ``longest_canvas`` the longest answer. ``block_multiple`` is the
    block size a model was trained with, when a block sees only itself and earlier ones.
    """

    mask_id: int
    eos_ids: tuple[int, ...]
    pad_id: int
    vocab_size: int
    banned: tuple[int, ...] = ()
    context: int | None = None
    longest_canvas: int | None = None
    block_multiple: int | None = None
    subset: int = SUBSET

    @abstractmethod
    def logits(self, ids: Tensor, key_mask: Tensor, start: int) -> Tensor:
        """Logits from position ``start`` on. ids, key_mask [batch, n] -> [batch, n - start, V]."""

    def forward(
        self, ids: Tensor, key_mask: Tensor, start: int, shadow: Tensor | None = None
    ) -> Output:
        """Marginals of the window, and leave-one-out marginals of ``shadow`` positions.

        shadow [batch, positions] counts from ``start``; -1 asks for nothing. Row by row, a row
        that asks for shadows also pays for them.
        """
        logits = self._clean(self.logits(ids, key_mask, start))
        cost = torch.ones(len(ids), dtype=torch.long, device=ids.device)
        if shadow is None or not (shadow >= 0).any():
            return Output(logits, None, cost)
        seen, extra = self.leave_one_out(ids, key_mask, start, shadow)
        return Output(logits, self._clean(seen), cost + extra)

    def leave_one_out(
        self, ids: Tensor, key_mask: Tensor, start: int, shadow: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits at ``shadow`` positions without their own token, by re-masking disjoint subsets.

        Positions are dealt to subsets in turn, so that neighbours are not masked together. Exact
        when ``subset`` is 1; otherwise the few others of a subset are hidden too.
        """
        groups = -(-shadow.shape[1] // self.subset)
        batch, width = ids.shape
        copies = ids.repeat(groups, 1).view(groups, batch, width)
        group = torch.arange(shadow.shape[1], device=ids.device) % groups
        rows = torch.arange(batch, device=ids.device)
        for column in range(shadow.shape[1]):
            ask = shadow[:, column] >= 0
            copies[group[column], rows[ask], start + shadow[ask, column]] = self.mask_id
        logits = self.logits(
            copies.view(groups * batch, width), key_mask.repeat(groups, 1), start
        ).view(groups, batch, width - start, -1)
        at = shadow.clamp(min=0)
        seen = logits[group[None, :], rows[:, None], at]
        used = torch.stack([(shadow[:, group == g] >= 0).any(1) for g in range(groups)])
        return seen, used.sum(0)

    def _clean(self, logits: Tensor) -> Tensor:
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        if self.banned:
            logits = logits.clone() if logits.is_inference() or logits.requires_grad else logits
            logits[..., list(self.banned)] = -torch.inf
        return logits


def resolve_ids(given: int | Sequence[int] | None, vocab_size: int, what: str) -> tuple[int, ...]:
    """Ids as a tuple, checked against the vocabulary."""
    if given is None:
        raise InputError(f"the decoder needs {what}: pass it, or set it on the tokenizer or config")
    ids = (given,) if isinstance(given, int) else tuple(given)
    if not ids or not all(0 <= i < vocab_size for i in ids):
        raise InputError(f"{what} must be token ids below {vocab_size}, got {list(ids)}")
    return ids
