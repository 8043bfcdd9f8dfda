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
from probcomp.structure.silence import silence as silence
from probcomp.structure.trace import trace as trace

__all__ = [
    "KINDS",
    "Axis",
    "Cost",
    "Keep",
    "Member",
    "Structure",
    "cut_graph",
    "new_arguments",
    "round_keep",
    "silence",
    "trace",
]
