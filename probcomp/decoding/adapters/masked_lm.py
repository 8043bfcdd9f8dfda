"""Transformers models that predict masked tokens: LLaDA, Dream, SDAR, MDLM, encoders like BERT.

Facts per family (mask id, shift, form of the attention mask, trained block) are in `families`;
a model of another type works when the ids are given.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from probcomp.decoding.adapters.base import Adapter, resolve_ids
from probcomp.decoding.adapters.families import FAMILIES, Family, resolve_mask_id
from probcomp.errors import InputError

EFFECT = 1e-6  # logits that move less than this when keys are hidden do not read the mask
PROBE = 8  # tokens of the probe


class MaskedLMAdapter(Adapter):
    """A Transformers model as a denoiser.

    The mask id is, in this order: the argument, ``config.mask_token_id``,
    ``tokenizer.mask_token_id``, the family's. At load, two rows that differ in one hidden key
    tell whether the model reads its attention mask at all; one that does not decodes prompts of
    equal length only.

    Args:
        family: conventions in place of those of ``config.model_type``.
        probe: run that probe, one forward of 2 rows and 8 tokens.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        mask_id: int | None = None,
        eos_ids: int | Sequence[int] | None = None,
        family: Family | None = None,
        probe: bool = True,
    ) -> None:
        config = model.config
        known = FAMILIES.get(getattr(config, "model_type", ""))
        self.model, self.family = model.eval(), family or known or Family()
        self.vocab_size = int(config.vocab_size)
        found = resolve_mask_id(mask_id, config, tokenizer, self.family)
        self.mask_id = resolve_ids(found, self.vocab_size, "the mask id")[0]
        if eos_ids is None:
            eos_ids = getattr(config, "eos_token_id", None)
        if eos_ids is None:
            eos_ids = getattr(tokenizer, "eos_token_id", None)
        self.eos_ids = resolve_ids(eos_ids, self.vocab_size, "an end-of-text id")
        pad = getattr(config, "pad_token_id", None)
        self.pad_id = self.eos_ids[0] if pad is None else int(pad)
        # Ids past the tokenizer's have a row in the head and no text.
        used = self.vocab_size if tokenizer is None else max(len(tokenizer), self.mask_id + 1)
        self.banned = (self.mask_id, *range(min(used, self.vocab_size), self.vocab_size))
        self.context = next(
            (
                int(getattr(config, name))
                for name in ("max_position_embeddings", "max_sequence_length", "model_length")
                if getattr(config, name, None)
            ),
            None,
        )
        self.block_multiple = self.family.block_of(config)
        self.reads_mask = self._mask_has_effect() if probe else self.family.mask != "none"

    @torch.no_grad()
    def logits(self, ids: Tensor, key_mask: Tensor, start: int) -> Tensor:
        """Logits of the window, in float32, unshifted."""
        keys = key_mask.bool()
        if not self.reads_mask and not bool(keys.all()):
            raise InputError(
                f"{type(self.model).__name__} ignores its attention mask: decode prompts of equal "
                "length, or one at a time"
            )
        found = self._call(ids, keys)
        if self.family.shift:
            found = torch.cat((found[:, :1], found[:, :-1]), dim=1)
        return found[:, start:].float()

    def _call(self, ids: Tensor, keys: Tensor) -> Tensor:
        form, extra = self.family.mask, {}
        if self.family.timesteps:
            extra["timesteps"] = torch.zeros(len(ids), device=ids.device)
        if form == "key":
            extra["attention_mask"] = keys.long()
        elif form != "none":
            extra["position_ids"] = (keys.long().cumsum(1) - 1).clamp(min=0)
            seen = visible(keys, self.block_multiple if form in ("block", "additive") else None)
            if form == "block":
                extra["attention_mask"] = seen
            elif form == "full":
                extra["attention_mask"] = seen[:, None]
            else:
                kind = next(self.model.parameters()).dtype
                zero = torch.zeros(seen.shape, dtype=kind, device=ids.device)
                extra["attention_mask"] = zero.masked_fill(~seen, -torch.inf)[:, None]
        output = self.model(input_ids=ids, **extra)
        return output.logits if hasattr(output, "logits") else output[0]

    @torch.no_grad()
    def _mask_has_effect(self) -> bool:
        """Two rows that differ in a hidden key only must have different logits elsewhere."""
        if self.family.mask == "none":
            return False
        device = next(self.model.parameters()).device
        row = (torch.arange(PROBE, device=device) % self.vocab_size).repeat(2, 1)
        keys = torch.ones_like(row, dtype=torch.bool)
        keys[1, 0] = False
        found = self._call(row, keys)[:, 1:]
        return float((found[0] - found[1]).abs().max()) > EFFECT


def visible(keys: Tensor, block: int | None = None) -> Tensor:
    """What each query sees, boolean [batch, n, n]: real keys, and itself.

    With ``block``, only keys of its own block and of earlier ones; blocks are counted from the
    first real token of a row. A padded query sees itself, or its softmax would be 0 / 0.
    """
    n = keys.shape[1]
    seen = keys[:, None, :].expand(-1, n, -1)
    if block:
        at = (keys.long().cumsum(1) - 1).clamp(min=0) // block
        seen = seen & (at[:, None, :] <= at[:, :, None])
    return seen | torch.eye(n, dtype=torch.bool, device=keys.device)
