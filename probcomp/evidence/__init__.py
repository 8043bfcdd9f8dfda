"""What the data say: statistics of the matrices that read removable units."""

from probcomp.evidence.collect import Statistics as Statistics
from probcomp.evidence.collect import collect as collect
from probcomp.evidence.collect import collect_within as collect_within
from probcomp.evidence.matrices import Matrix as Matrix
from probcomp.evidence.readouts import Readout as Readout
from probcomp.evidence.readouts import readouts as readouts
from probcomp.evidence.readouts import unread as unread
