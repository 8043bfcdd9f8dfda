"""Post-training inference: supports from a layer's quadratic loss, without training."""

from probcomp.inference.quadratic.cavi import joint_cavi
from probcomp.inference.quadratic.conditioned import Conditioned, ep_conditioned
from probcomp.inference.quadratic.exchange import exchange
from probcomp.inference.quadratic.gibbs import gibbs
from probcomp.inference.quadratic.group import GroupFactor, GroupResult, ep_group
from probcomp.inference.quadratic.group_evidence import log_evidence
from probcomp.inference.quadratic.layers import ep_layers
from probcomp.inference.quadratic.likelihood import Quadratic
from probcomp.inference.quadratic.refit import refit
from probcomp.inference.quadratic.reorder import Order, reorder
from probcomp.inference.quadratic.savage_dickey import column_evidence
from probcomp.inference.quadratic.shared import ep_shared
from probcomp.inference.quadratic.weight_result import WeightResult, WeightState

__all__ = [
    "Conditioned",
    "GroupFactor",
    "GroupResult",
    "Order",
    "Quadratic",
    "WeightResult",
    "WeightState",
    "column_evidence",
    "ep_conditioned",
    "ep_group",
    "ep_layers",
    "ep_shared",
    "exchange",
    "gibbs",
    "joint_cavi",
    "log_evidence",
    "refit",
    "reorder",
]
