"""Which phase is a training run in, will pruning hurt, and which way should the knob turn?"""

from probcomp.regime.advice import Advice as Advice
from probcomp.regime.advice import advise as advise
from probcomp.regime.decision import Decision as Decision
from probcomp.regime.decision import decide as decide
from probcomp.regime.design import NextPilot as NextPilot
from probcomp.regime.diagram import PhaseDiagram as PhaseDiagram
from probcomp.regime.fit import Prediction as Prediction
from probcomp.regime.fit import RegimeModel as RegimeModel
from probcomp.regime.knobs import Knob as Knob
from probcomp.regime.table import RunTable as RunTable
from probcomp.regime.table import read_runs as read_runs

__all__ = [
    "Advice",
    "Decision",
    "Knob",
    "NextPilot",
    "PhaseDiagram",
    "Prediction",
    "RegimeModel",
    "RunTable",
    "advise",
    "decide",
    "read_runs",
]
