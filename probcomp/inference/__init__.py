"""The posterior over supports: message passing, Turbo-VBI, and the object that holds the result."""

from probcomp.inference.posterior import Posterior, UnitPosterior, WeightPosterior
from probcomp.inference.regression import Data
from probcomp.inference.selection import Selection, select_variables
from probcomp.inference.supports import Marginals, marginals
from probcomp.inference.turbo import turbo

__all__ = [
    "Data",
    "Marginals",
    "Posterior",
    "Selection",
    "UnitPosterior",
    "WeightPosterior",
    "marginals",
    "select_variables",
    "turbo",
]
