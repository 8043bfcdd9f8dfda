"""Transformers models that predict masked tokens: LLaDA, Dream, MDLM, and encoders like BERT.

Facts per family (mask id, shift, form of the attention mask) are in `FAMILIES`, by
``config.model_type``; a model of another type works when the ids are given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probcomp.decoding.adapters.base import Adapter, resolve_ids
from probcomp.errors import InputError

EFFECT = 1e-6  # logits that move less than this when keys are hidden do not read the mask


@dataclass(frozen=True)
class Family:
    """Conventions of one kind of model.

    ``shift``: the logits at i predict position i + 1, so they are moved right by one (Dream).
    ``full_mask``: takes a boolean mask [batch, 1, n, n] and ``position_ids`` in place of a key
    mask. ``mask_id`` is the mask's id where neither config nor tokenizer says it.
    """

    shift: bool = False
    full_mask: bool = False
    mask_id: int | None = None
    block_multiple: int | None = None


FAMILIES = {
    "llada": Family(mask_id=126336),
    "lladamoe": Family(mask_id=156895),
    "Dream": Family(shift=True, full_mask=True, mask_id=151666),
    "mdlm": Family(),
}


class MaskedLMAdapter(Adapter):
    """A Transformers model as a denoiser.

    The mask id is, in this order: the argument, ``config.mask_token_id``,
    ``tokenizer.mask_token_id``, the family's. It is never guessed from the tokenizer's kind.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        mask_id: int | None = None,
        eos_ids: int | Sequence[int] | None = None,
        family: Family | None = None,
    ) -> None:
        config = model.config
        known = FAMILIES.get(getattr(config, "model_type", ""))
        self.model, self.family = model.eval(), family or known or Family()
        self.vocab_size = int(config.vocab_size)
        for source in (
            mask_id,
            getattr(config, "mask_token_id", None),
            getattr(tokenizer, "mask_token_id", None),
            self.family.mask_id,
        ):
            if source is not None:
                mask_id = int(source)
                break
        else:
            raise InputError(
                f"{type(model).__name__} has no mask token: pass mask_id, or set "
                "config.mask_token_id or tokenizer.mask_token"
            )
        self.mask_id = resolve_ids(mask_id, self.vocab_size, "the mask id")[0]
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
        self.context = getattr(config, "max_position_embeddings", None)
        self.block_multiple = self.family.block_multiple
        self._reads_mask: bool | None = None

    @torch.no_grad()
    def logits(self, ids: Tensor, key_mask: Tensor, start: int) -> Tensor:
        """Logits of the window, in float32, unshifted."""
        keys = key_mask.bool()
        if not bool(keys.all()) and not self._mask_has_effect(ids):
            raise InputError(
                f"{type(self.model).__name__} ignores its attention mask: decode prompts of equal "
                "length, or one at a time"
            )
        found = self._call(ids, keys)
        if self.family.shift:
            found = torch.cat((found[:, :1], found[:, :-1]), dim=1)
        return found[:, start:].float()

    def _call(self, ids: Tensor, keys: Tensor) -> Tensor:
        if not self.family.full_mask:
            output = self.model(input_ids=ids, attention_mask=keys.long())
        else:
            n = ids.shape[1]
            # Keys alone decide what is seen. A padded query sees itself, or its softmax is 0 / 0.
            eye = torch.eye(n, dtype=torch.bool, device=ids.device)
            mask = keys[:, None, None, :] | eye
            position = (keys.long().cumsum(1) - 1).clamp(min=0)
            output = self.model(input_ids=ids, attention_mask=mask, position_ids=position)
        return output.logits if hasattr(output, "logits") else output[0]

    def _mask_has_effect(self, ids: Tensor) -> bool:
        """Two rows that differ in hidden keys only must have different logits elsewhere."""
        if self._reads_mask is None:
            row = ids[:1, : min(ids.shape[1], 8)].repeat(2, 1)
            keys = torch.ones_like(row, dtype=torch.bool)
            keys[1, 0] = False
            found = self._call(row, keys)[:, 1:]
            self._reads_mask = float((found[0] - found[1]).abs().max()) > EFFECT
        return self._reads_mask
