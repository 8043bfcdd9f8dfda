"""Packed weights and the operators that run them: structured masks that are really faster.

`pack` stores a masked weight without what the mask removed, `masked_linear` multiplies by it on the
fastest backend that the device has (dense always among the candidates), `decode_stats` reads what
a decoder needs from logits in one pass. Nothing is compiled and Triton is not imported here.
"""

from probcomp.kernels.attention import ScoreBlocks, live_attention
from probcomp.kernels.blocks import BlockWeight
from probcomp.kernels.chains import chain_messages
from probcomp.kernels.compact import CompactWeight
from probcomp.kernels.compact_mlp import CompactMLP, compact_mlp
from probcomp.kernels.gated import gated_mlp_hidden
from probcomp.kernels.int8 import Int8Weight, quantise
from probcomp.kernels.linear import masked_linear
from probcomp.kernels.module import MaskedLinear
from probcomp.kernels.nm import GroupWeight
from probcomp.kernels.packed import PackedWeight
from probcomp.kernels.packing import pack
from probcomp.kernels.planning import Plan
from probcomp.kernels.reparameterised import noisy_linear, reparameterised_linear
from probcomp.kernels.replace import PackedLayer, pack_layers, unpack_layers
from probcomp.kernels.runs import RunWeight
from probcomp.kernels.statistics import DecodeStats, decode_stats
from probcomp.kernels.tuning import tune

__all__ = [
    "BlockWeight",
    "CompactMLP",
    "CompactWeight",
    "DecodeStats",
    "GroupWeight",
    "Int8Weight",
    "MaskedLinear",
    "PackedLayer",
    "PackedWeight",
    "Plan",
    "RunWeight",
    "ScoreBlocks",
    "chain_messages",
    "compact_mlp",
    "decode_stats",
    "gated_mlp_hidden",
    "live_attention",
    "masked_linear",
    "noisy_linear",
    "pack",
    "pack_layers",
    "quantise",
    "reparameterised_linear",
    "tune",
    "unpack_layers",
]
