"""Weight coding: a compressed model in one small file, and what its size is made of."""

from probcomp.coding.choose import Choice, coarsest
from probcomp.coding.curvature import curvature
from probcomp.coding.file import CodedSize, coded_size, decode, encode
from probcomp.coding.quantise import Quantised, quantise
from probcomp.coding.tuning import tune

__all__ = [
    "Choice",
    "CodedSize",
    "Quantised",
    "coarsest",
    "coded_size",
    "curvature",
    "decode",
    "encode",
    "quantise",
    "tune",
]
