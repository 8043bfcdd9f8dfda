"""Post-training inference: supports from a layer's quadratic loss, without training."""

from probcomp.inference.quadratic.group import GroupFactor, GroupResult, ep_group
from probcomp.inference.quadratic.likelihood import Quadratic
from probcomp.inference.quadratic.refit import refit
from probcomp.inference.quadratic.savage_dickey import column_evidence
from probcomp.inference.quadratic.shared import ep_shared
from probcomp.inference.quadratic.weight_result import WeightResult

__all__ = [
    "GroupFactor",
    "GroupResult",
    "Quadratic",
    "WeightResult",
    "column_evidence",
    "ep_group",
    "ep_shared",
    "refit",
]
