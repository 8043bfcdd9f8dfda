"""Published methods to compare with."""

from probcomp.inference.baselines.bayesian_compression import GroupConfig, bc_ghs, bc_gnj
from probcomp.inference.baselines.engine import Schedule
from probcomp.inference.baselines.l0 import L0Config, l0
from probcomp.inference.baselines.magnitude import MagnitudeResult, magnitude, magnitude_masks
from probcomp.inference.baselines.preparing import Setting
from probcomp.inference.baselines.readout import Limit, Pruned
from probcomp.inference.baselines.sparse_vd import SparseVDConfig, sparse_vd

__all__ = [
    "GroupConfig",
    "L0Config",
    "Limit",
    "MagnitudeResult",
    "Pruned",
    "Schedule",
    "Setting",
    "SparseVDConfig",
    "bc_ghs",
    "bc_gnj",
    "l0",
    "magnitude",
    "magnitude_masks",
    "sparse_vd",
]
