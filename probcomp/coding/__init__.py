"""Weight coding: a compressed model in one small file, and what its size is made of."""

from probcomp.coding.choose import Choice, coarsest
from probcomp.coding.curvature import curvature
from probcomp.coding.file import coded_size, decode, encode
from probcomp.coding.network import load, read_network, write_network
from probcomp.coding.quantise import Quantised, quantise
from probcomp.coding.stream import CodedSize, CodedTensor
from probcomp.coding.tuning import tune

__all__ = [
    "Choice",
    "CodedSize",
    "CodedTensor",
    "Quantised",
    "coarsest",
    "coded_size",
    "curvature",
    "decode",
    "encode",
    "load",
    "quantise",
    "read_network",
    "tune",
    "write_network",
]
