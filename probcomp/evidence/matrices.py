"""Weights as matrices, for those that collect evidence; see `probcomp.inference.matrices`."""

from probcomp.inference.matrices import Matrix as Matrix
from probcomp.inference.matrices import matrix_of as matrix_of
from probcomp.inference.matrices import produces as produces

__all__ = ["Matrix", "matrix_of", "produces"]
