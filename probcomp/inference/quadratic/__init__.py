"""Post-training inference: supports from a layer's quadratic loss, without training."""

from probcomp.inference.quadratic.group import GroupFactor, GroupResult, ep_group
from probcomp.inference.quadratic.likelihood import Quadratic
from probcomp.inference.quadratic.refit import refit
from probcomp.inference.quadratic.savage_dickey import column_evidence

__all__ = ["GroupFactor", "GroupResult", "Quadratic", "column_evidence", "ep_group", "refit"]
