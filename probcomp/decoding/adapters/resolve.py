"""From what a user passes as a model to an adapter, a tokenizer and a default configuration."""

from typing import Any

from probcomp.decoding.adapters.base import Adapter
from probcomp.decoding.adapters.masked_lm import MaskedLMAdapter
from probcomp.decoding.adapters.small import SmallAdapter
from probcomp.decoding.adapters.uniform_state import UniformStateAdapter
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.presets import presets
from probcomp.decoding.small.network import SmallDenoiser
from probcomp.errors import InputError


def as_adapter(model: Any, tokenizer: Any) -> tuple[Adapter, Any, DecodingConfig]:
    """(adapter, tokenizer, default configuration) of a model."""
    if model is None:
        from probcomp.decoding.small.load import embedded_model, small_config
        from probcomp.decoding.small.tokenizer import CharacterTokenizer

        return SmallAdapter(embedded_model()), tokenizer or CharacterTokenizer(), small_config()
    if isinstance(model, Adapter):
        return model, tokenizer, _default(model)
    if isinstance(model, SmallDenoiser):
        from probcomp.decoding.small.load import small_config

        return SmallAdapter(model), tokenizer, small_config()
    config = getattr(model, "config", None)
    if getattr(config, "model_type", "") == "diffusion_gemma":
        return UniformStateAdapter(model, tokenizer), tokenizer, presets["bayes"]
    if hasattr(config, "vocab_size"):
        adapter = MaskedLMAdapter(model, tokenizer)
        return adapter, tokenizer, _default(adapter)
    raise InputError(
        f"no adapter for {type(model).__name__}: wrap it in "
        "probcomp.decoding.adapters.CallableAdapter(function, mask_id=..., eos_ids=...)"
    )


def _default(adapter: Adapter) -> DecodingConfig:
    """The ``bayes`` preset, or one trained block at a time where later blocks are never seen."""
    block = adapter.block_multiple
    return presets["bayes"] if block is None else block_by_block(block)


def block_by_block(block: int) -> DecodingConfig:
    """For block-causal models: the window is one trained block, and grows by one when full.

    Later blocks do not inform earlier ones there, so there is nothing to infer about the length
    beyond the block: a text ends with its first EOS.
    """
    return presets["bayes"].replace(
        sizing="append",
        initial_length=block,
        block_multiple=block,
        blocks="none",
        stop="eos",
        beyond=False,
        max_edits=100_000,
    )
