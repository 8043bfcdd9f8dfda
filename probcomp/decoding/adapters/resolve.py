"""From what a user passes as a model to an adapter, a tokenizer and a default configuration."""

from typing import Any

from probcomp.decoding.adapters.base import Adapter
from probcomp.decoding.adapters.masked_lm import MaskedLMAdapter
from probcomp.decoding.adapters.small import SmallAdapter
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
        return model, tokenizer, presets["bayes"]
    if isinstance(model, SmallDenoiser):
        from probcomp.decoding.small.load import small_config

        return SmallAdapter(model), tokenizer, small_config()
    if hasattr(getattr(model, "config", None), "vocab_size"):
        return MaskedLMAdapter(model, tokenizer), tokenizer, presets["bayes"]
    raise InputError(
        f"no adapter for {type(model).__name__}: wrap it in "
        "probcomp.decoding.adapters.CallableAdapter(function, mask_id=..., eos_ids=...)"
    )
