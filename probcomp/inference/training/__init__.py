"""Turbo-VBI while a network trains: layers, evidence, unit gates, the outer loop."""

from probcomp.inference.training.config import TurboConfig
from probcomp.inference.training.engine import Info, State, init, step
from probcomp.inference.training.evidence import CollapsedGamma, JointGaussian, PaperFactorised
from probcomp.inference.training.fitting import TurboResult, fit
from probcomp.inference.training.layers import from_bayesian, to_bayesian
from probcomp.inference.training.refitting import apply_masks, refit
from probcomp.inference.training.units import Slice, UnitGroup, Units
from probcomp.inference.training.weights import Run

__all__ = [
    "CollapsedGamma",
    "Info",
    "JointGaussian",
    "PaperFactorised",
    "Run",
    "Slice",
    "State",
    "TurboConfig",
    "TurboResult",
    "UnitGroup",
    "Units",
    "apply_masks",
    "fit",
    "from_bayesian",
    "init",
    "refit",
    "step",
    "to_bayesian",
]
