"""Weight coding: a compressed model in one small file, and what its size is made of."""

from probcomp.coding.file import CodedSize, coded_size, decode, encode

__all__ = ["CodedSize", "coded_size", "decode", "encode"]
