"""The embedded model behind the loop, with shadow positions in the same forward."""

import torch
from torch import Tensor

from probcomp.decoding.adapters.base import Adapter, Output
from probcomp.decoding.small.network import SmallDenoiser


class SmallAdapter(Adapter):
    """`SmallDenoiser` with shadows in the same forward.

    A shadow is an extra mask token with the position of the token it checks. It sees every real
    key but that token, and itself; real tokens do not see shadows (WINO, arXiv 2507.18578).

    Notes:
        This is leave-one-out exactly for one layer. In deeper layers the other tokens have seen
        the token under check and pass some of it on, which favours keeping it. The base class's
        `leave_one_out` with ``subset = 1`` is exact, at one more forward a position.
    """

    def __init__(self, model: SmallDenoiser) -> None:
        config = model.config
        self.model = model.eval()
        self.mask_id = config.mask_token_id
        self.eos_ids = (config.eos_token_id,)
        self.pad_id = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.context = config.context
        self.banned = (config.mask_token_id, config.pad_token_id)

    @torch.no_grad()
    def logits(self, ids: Tensor, key_mask: Tensor, start: int) -> Tensor:
        return self.model(ids, key_mask)[:, start:]

    @torch.no_grad()
    def forward(
        self, ids: Tensor, key_mask: Tensor, start: int, shadow: Tensor | None = None
    ) -> Output:
        if shadow is None or not (shadow >= 0).any():
            return super().forward(ids, key_mask, start)
        n, extra = ids.shape[1], shadow.shape[1]
        keys = key_mask.bool()
        position = (keys.long().cumsum(1) - 1).clamp(min=0)
        at = start + shadow.clamp(min=0)
        longer = torch.cat((ids, torch.full_like(shadow, self.mask_id)), dim=1)
        mask = torch.zeros(len(ids), n + extra, n + extra, dtype=torch.bool, device=ids.device)
        mask[:, :, :n] = keys[:, None]
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        mask[rows, n + torch.arange(extra, device=ids.device), at] = False
        logits = self.model(longer, mask, torch.cat((position, position.gather(1, at)), dim=1))
        logits = self._clean(logits)
        cost = torch.ones(len(ids), dtype=torch.long, device=ids.device)
        return Output(logits[:, start:n], logits[:, n:], cost)
