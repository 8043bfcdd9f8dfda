"""Conventions of published masked diffusion models, by ``config.model_type``."""

from dataclasses import dataclass
from typing import Any

from probcomp.errors import InputError


@dataclass(frozen=True)
class Family:
    """Conventions of one kind of model.

    ``shift``: the logits at i predict position i + 1, so they are moved right by one (Dream).
    ``mask``: what it takes as ``attention_mask``:

    * ``key``     [batch, n], one for real tokens
    * ``full``    boolean [batch, 1, n, n] with ``position_ids``; a query sees every real key
    * ``block``   boolean [batch, n, n] with ``position_ids``; a query sees the real keys of its
      own trained block and of earlier ones (SDAR)
    * ``additive``  the same as 0 and minus infinity, [batch, 1, n, n] (LLaDA 2)
    * ``none``    it takes no mask: what a query sees is fixed inside (MDLM, BD3-LM)

    ``block`` is the trained block in tokens, where the config does not say (``block_from``);
    ``timesteps``: it wants ``timesteps``, zeros here. ``mask_id`` is the mask's id where neither
    config nor tokenizer says it.
    """

    shift: bool = False
    mask: str = "key"
    mask_id: int | None = None
    block: int | None = None
    block_from: tuple[str, ...] = ()
    timesteps: bool = False

    def block_of(self, config: Any) -> int | None:
        """The block a model was trained with, or None for one that sees the whole canvas."""
        for name in self.block_from:
            if getattr(config, name, None):
                return int(getattr(config, name))
        return self.block


_BLOCK = ("block_size", "block_length")

FAMILIES = {
    "llada": Family(mask_id=126336),
    "lladamoe": Family(mask_id=156895),
    "llada_moe": Family(mask_id=156895),
    "llada2_moe": Family(mask="additive", mask_id=156895, block=32, block_from=_BLOCK),
    "Dream": Family(shift=True, mask="full", mask_id=151666),
    "sdar": Family(mask="block", mask_id=151669, block=4, block_from=_BLOCK),
    "sdar_moe": Family(mask="block", mask_id=151669, block=4, block_from=_BLOCK),
    "mdlm": Family(mask="none", timesteps=True),
    "bd3lm": Family(mask="none", timesteps=True, block_from=_BLOCK),
}
# Their masks are the last index of the vocabulary.
LAST_IS_MASK = ("mdlm", "bd3lm")


def resolve_mask_id(given: int | None, config: Any, tokenizer: Any, family: Family) -> int:
    """The mask id: the argument, the config's, the tokenizer's, or the family's, in this order.

    It is never guessed from the kind of tokenizer: Dream's mask has the id of another token in
    the tokenizer that Dream's was made from.
    """
    kind = getattr(config, "model_type", "")
    last = int(config.vocab_size) - 1 if kind in LAST_IS_MASK else None
    for source in (
        given,
        getattr(config, "mask_token_id", None),
        getattr(tokenizer, "mask_token_id", None),
        family.mask_id,
        last,
    ):
        if source is not None:
            return int(source)
    raise InputError(
        "this model has no mask token: pass mask_id, or set config.mask_token_id or "
        "tokenizer.mask_token"
    )
