"""Published methods to compare with."""

from probcomp.inference.baselines.bayesian_compression import GroupConfig, bc_ghs, bc_gnj
from probcomp.inference.baselines.engine import Schedule
from probcomp.inference.baselines.iterative import IterativeConfig, iterative
from probcomp.inference.baselines.l0 import L0Config, l0
from probcomp.inference.baselines.magnitude import MagnitudeResult, magnitude, magnitude_masks
from probcomp.inference.baselines.pdp import PDPConfig, pdp
from probcomp.inference.baselines.preparing import Setting
from probcomp.inference.baselines.programs import baseline_program
from probcomp.inference.baselines.readout import Limit, Pruned
from probcomp.inference.baselines.sbp import SBPConfig, sbp
from probcomp.inference.baselines.sparse_vd import SparseVDConfig, sparse_vd
from probcomp.inference.baselines.spike_slab import SpikeSlabConfig, spike_slab
from probcomp.inference.baselines.vibnet import VIBConfig, vibnet

__all__ = [
    "GroupConfig",
    "IterativeConfig",
    "L0Config",
    "Limit",
    "MagnitudeResult",
    "PDPConfig",
    "Pruned",
    "SBPConfig",
    "Schedule",
    "Setting",
    "SparseVDConfig",
    "SpikeSlabConfig",
    "VIBConfig",
    "baseline_program",
    "bc_ghs",
    "bc_gnj",
    "iterative",
    "l0",
    "magnitude",
    "magnitude_masks",
    "pdp",
    "sbp",
    "sparse_vd",
    "spike_slab",
    "vibnet",
]
