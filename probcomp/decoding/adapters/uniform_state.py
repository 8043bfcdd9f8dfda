"""Models without a mask token: the undecided part of their canvas is random tokens.

`DiffusionGemmaForBlockDiffusion` of Transformers encodes the prompt causally, and its decoder
reads a canvas of tokens, some right and some random, in both directions. Here a mask is an id
past the vocabulary, which becomes a random token on the way in.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from probcomp.decoding.adapters.base import Adapter, resolve_ids
from probcomp.decoding.noise import uniform
from probcomp.errors import InputError


class UniformStateAdapter(Adapter):
    """`DiffusionGemmaForBlockDiffusion` as a denoiser of one canvas.

    The random tokens of a row are a hash of the position and of how many are undecided, so they
    are new in every forward that follows a commit, and the same alone and in a batch.

    Notes:
        Self-conditioning on the logits of the forward before is not used, and an answer has at
        most ``config.canvas_length`` tokens (one trained block).
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        eos_ids: int | Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        config = model.config
        text = config.text_config
        self.model, self.seed = model.eval(), seed
        self.vocab_size = int(text.vocab_size)
        self.mask_id = self.vocab_size
        if eos_ids is None:
            eos_ids = getattr(text, "eos_token_id", None)
        if eos_ids is None:
            eos_ids = getattr(tokenizer, "eos_token_id", None)
        self.eos_ids = resolve_ids(eos_ids, self.vocab_size, "an end-of-text id")
        pad = getattr(text, "pad_token_id", None)
        self.pad_id = self.eos_ids[0] if pad is None else int(pad)
        self.context = int(text.max_position_embeddings)
        self.longest_canvas = int(config.canvas_length)

    @torch.no_grad()
    def logits(self, ids: Tensor, key_mask: Tensor, start: int) -> Tensor:
        """Logits of the canvas [batch, n - start, V]; the prompt is encoded anew."""
        if start < 1:
            raise InputError("this model needs a prompt of at least one token before its canvas")
        keys = key_mask.bool()
        prompt, canvas = ids[:, :start], ids[:, start:]
        undecided = canvas == self.mask_id
        if bool((prompt == self.mask_id).any()):
            raise InputError("this model cannot fill masks inside its prompt")
        count = (undecided & keys[:, start:]).sum(1)
        seeds = torch.full_like(count, self.seed)
        draw = (uniform(seeds, count, canvas.shape[1]) * self.vocab_size).long()
        position = (keys.long().cumsum(1) - 1).clamp(min=0)
        output = self.model(
            input_ids=prompt,
            attention_mask=keys[:, :start].long(),
            position_ids=position[:, :start],
            decoder_input_ids=torch.where(undecided, draw, canvas),
            decoder_attention_mask=keys.long(),
            decoder_position_ids=position[:, start:],
        )
        return output.logits.float()
