"""Denoisers behind one call."""

from probcomp.decoding.adapters.base import Adapter as Adapter
from probcomp.decoding.adapters.callable import CallableAdapter as CallableAdapter
from probcomp.decoding.adapters.masked_lm import MaskedLMAdapter as MaskedLMAdapter
from probcomp.decoding.adapters.small import SmallAdapter as SmallAdapter
from probcomp.decoding.adapters.uniform_state import UniformStateAdapter as UniformStateAdapter

__all__ = ["Adapter", "CallableAdapter", "MaskedLMAdapter", "SmallAdapter", "UniformStateAdapter"]
