"""Weights as matrices, for those that collect evidence; see `probcomp.inference.matrices`."""

from dataclasses import replace

from torch import nn

from probcomp.inference.matrices import Matrix as Matrix
from probcomp.inference.matrices import matrix_of as _matrix_of
from probcomp.inference.matrices import produces as produces

__all__ = ["Matrix", "matrix_of", "produces"]

CROSS = ("EncDecAttention", "encoder_attn", "cross_attn", "crossattention", "cross_attention")
KEYS = ("k", "v", "key", "value", "k_proj", "v_proj", "key_proj", "value_proj")
"""Names in transformers of attention over the encoder's states, and of what is applied to these."""


def matrix_of(module: nn.Module, path: str, model: nn.Module | None = None) -> Matrix | str:
    """The matrix view of a module, or the reason why it has none.

    Args:
        module: The module.
        path: Its path.
        model: The model that it is in; with it, read-outs of a decoder behind an encoder are told.
    """
    matrix = _matrix_of(module, path)
    both = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    if isinstance(matrix, str) or not both:
        return matrix
    *above, last = path.split(".")
    states = "encoder" in above or (last in KEYS and any(name in CROSS for name in above))
    return matrix if states else replace(matrix, decoder=True)
