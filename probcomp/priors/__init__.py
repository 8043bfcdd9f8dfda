"""Beliefs about supports and weights before any data: frozen dataclasses, no inference."""

from probcomp.priors.base import SupportPrior
from probcomp.priors.blocks import Blocks
from probcomp.priors.chain import Chain, GatedChain
from probcomp.priors.counting import ExactK, NofM
from probcomp.priors.independent import Independent
from probcomp.priors.lattice import Lattice
from probcomp.priors.programs import to_numpyro, to_pyro
from probcomp.priors.registry import PRIORS, format_prior, parse_prior
from probcomp.priors.scales import HalfCauchy, LogUniform, TruncatedLogUniform
from probcomp.priors.tree import Tree
from probcomp.priors.weights import SpikeSlabGamma, SpikeSlabGaussian

__all__ = [
    "PRIORS",
    "Blocks",
    "Chain",
    "ExactK",
    "GatedChain",
    "HalfCauchy",
    "Independent",
    "Lattice",
    "LogUniform",
    "NofM",
    "SpikeSlabGamma",
    "SpikeSlabGaussian",
    "SupportPrior",
    "Tree",
    "TruncatedLogUniform",
    "format_prior",
    "parse_prior",
    "to_numpyro",
    "to_pyro",
]
