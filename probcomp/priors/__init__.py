"""Beliefs about supports and weights before any data: frozen dataclasses, no inference."""

from probcomp.priors.base import SupportPrior
from probcomp.priors.chain import Chain, GatedChain
from probcomp.priors.independent import Independent
from probcomp.priors.lattice import Lattice

__all__ = ["Chain", "GatedChain", "Independent", "Lattice", "SupportPrior"]
