"""Operator rules: how each operator relates the dimensions of its arguments and its result."""

from probcomp.structure.rules import (
    convolution as convolution,
)
from probcomp.structure.rules import (
    elementwise as elementwise,
)
from probcomp.structure.rules import (
    generators as generators,
)
from probcomp.structure.rules import (
    indexing as indexing,
)
from probcomp.structure.rules import (
    linear as linear,
)
from probcomp.structure.rules import (
    segments as segments,
)
from probcomp.structure.rules import (
    shapes as shapes,
)
from probcomp.structure.rules import (
    statistics as statistics,
)
from probcomp.structure.rules.base import RULES as RULES
from probcomp.structure.rules.base import Op as Op
from probcomp.structure.rules.base import Typed as Typed
from probcomp.structure.rules.base import Typing as Typing

__all__ = ["RULES", "Op", "Typed", "Typing"]
