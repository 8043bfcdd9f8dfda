"""Structure of a network: what can be removed, what it costs, and removing it for real."""

from probcomp.structure.axes import KINDS as KINDS
from probcomp.structure.axes import Axis as Axis
from probcomp.structure.axes import Cost as Cost
from probcomp.structure.axes import Keep as Keep
from probcomp.structure.axes import Member as Member
from probcomp.structure.axes import Structure as Structure
from probcomp.structure.axes import round_keep as round_keep
from probcomp.structure.graph_cut import cut_graph as cut_graph
from probcomp.structure.graph_cut import new_arguments as new_arguments
from probcomp.structure.masks import apply_masks as apply_masks
from probcomp.structure.masks import masks_of as masks_of
from probcomp.structure.recipe import load as load
from probcomp.structure.recipe import save as save
from probcomp.structure.shrink import shrink as shrink
from probcomp.structure.silence import Routers as Routers
from probcomp.structure.silence import silence as silence
from probcomp.structure.silence import zeroed as zeroed
from probcomp.structure.trace import trace as trace

__all__ = [
    "KINDS",
    "Axis",
    "Cost",
    "Keep",
    "Member",
    "Routers",
    "Structure",
    "apply_masks",
    "cut_graph",
    "load",
    "masks_of",
    "new_arguments",
    "round_keep",
    "save",
    "shrink",
    "silence",
    "trace",
    "zeroed",
]
