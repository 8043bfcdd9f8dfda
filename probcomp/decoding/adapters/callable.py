"""Any function as a denoiser: oracles, tests, and models without an adapter of their own."""

from collections.abc import Callable, Sequence

from torch import Tensor

from probcomp.decoding.adapters.base import Adapter, resolve_ids


class CallableAdapter(Adapter):
    """``function(ids, key_mask) -> logits`` over whole sequences, [batch, n] -> [batch, n, V].

    Leave-one-out marginals re-mask one position at a time, so they are exact.
    """

    subset = 1

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        *,
        mask_id: int,
        eos_ids: int | Sequence[int],
        vocab_size: int,
        pad_id: int | None = None,
        banned: Sequence[int] = (),
        context: int | None = None,
    ) -> None:
        self.function = function
        self.vocab_size = vocab_size
        self.mask_id = mask_id
        self.eos_ids = resolve_ids(eos_ids, vocab_size, "an end-of-text id")
        self.pad_id = self.eos_ids[0] if pad_id is None else pad_id
        self.banned = tuple(banned)
        self.context = context

    def logits(self, ids: Tensor, key_mask: Tensor, start: int) -> Tensor:
        return self.function(ids, key_mask)[:, start:]
