"""Which phase is a training run in, will pruning hurt, and which way should the knob turn?"""

import importlib
from typing import TYPE_CHECKING, Any

from probcomp.regime.advice import Advice as Advice
from probcomp.regime.advice import advise as advise
from probcomp.regime.decision import Decision as Decision
from probcomp.regime.decision import decide as decide
from probcomp.regime.design import NextPilot as NextPilot
from probcomp.regime.diagram import PhaseDiagram as PhaseDiagram
from probcomp.regime.family import Candidate as Candidate
from probcomp.regime.family import rank_family as rank_family
from probcomp.regime.fit import Prediction as Prediction
from probcomp.regime.fit import RegimeModel as RegimeModel
from probcomp.regime.knobs import Knob as Knob
from probcomp.regime.table import RunTable as RunTable
from probcomp.regime.table import read_runs as read_runs

if TYPE_CHECKING:
    from probcomp.regime.diagnosis import Diagnosis as Diagnosis
    from probcomp.regime.diagnosis import StackedDiagnosis as StackedDiagnosis
    from probcomp.regime.hierarchy import Hierarchy as Hierarchy
    from probcomp.regime.pilots import PilotConfig as PilotConfig
    from probcomp.regime.pilots import run_pilot as run_pilot
    from probcomp.regime.planner import Planner as Planner
    from probcomp.regime.planner import run_campaign as run_campaign
    from probcomp.regime.recipe import Recipe as Recipe
    from probcomp.regime.store import Store as Store
    from probcomp.regime.sweep import run_pilots as run_pilots
    from probcomp.regime.tasks import PilotTask as PilotTask

# Read on first use: past runs can be advised on without importing torch.
_LATER = {
    "Diagnosis": "diagnosis",
    "Hierarchy": "hierarchy",
    "PilotConfig": "pilots",
    "PilotTask": "tasks",
    "Planner": "planner",
    "Recipe": "recipe",
    "StackedDiagnosis": "diagnosis",
    "Store": "store",
    "run_campaign": "planner",
    "run_pilot": "pilots",
    "run_pilots": "sweep",
}

__all__ = [
    "Advice",
    "Candidate",
    "Decision",
    "Diagnosis",
    "Hierarchy",
    "Knob",
    "NextPilot",
    "PhaseDiagram",
    "PilotConfig",
    "PilotTask",
    "Planner",
    "Prediction",
    "Recipe",
    "RegimeModel",
    "RunTable",
    "StackedDiagnosis",
    "Store",
    "advise",
    "decide",
    "rank_family",
    "read_runs",
    "run_campaign",
    "run_pilot",
    "run_pilots",
]


def __getattr__(name: str) -> Any:
    """The names that need torch."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"probcomp.regime.{_LATER[name]}"), name)
