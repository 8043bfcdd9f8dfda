"""What is measured on one dense network: the tail of its weights, the sharpness of its loss."""

import contextlib
import math

from torch import nn

from probcomp.errors import DivergenceError, InputError
from probcomp.regime.curvature import Curvature
from probcomp.regime.spectra import mean_alpha
from probcomp.regime.tasks import PilotTask

SAMPLES = 200
"""Training samples of which the Hessian is taken (as in Zhou et al. 2024, MD tree)."""


def dense_measures(model: nn.Module, task: PilotTask) -> dict[str, float | None]:
    """``alpha_mean``, ``ln_trace`` and ``ln_top`` of a dense network.

    Mean Hill exponent of the layers (no unit; `probcomp.regime.spectra.mean_alpha`), and the
    logarithms of trace and largest eigenvalue of the Hessian (`probcomp.regime.curvature`; nats a
    sample and squared unit of weight). None where there is no such number: no layer large enough,
    a trace that is not positive, or a layer without second derivatives.
    """
    out: dict[str, float | None] = dict.fromkeys(("alpha_mean", "ln_trace", "ln_top"))
    with contextlib.suppress(InputError):
        out["alpha_mean"] = mean_alpha(model)
    curvature = Curvature(model, [(task.train[0][:SAMPLES], task.train[1][:SAMPLES])])
    try:
        trace, top = curvature.trace(show=False).value, curvature.top_eigenvalue(show=False).value
    # The last two are torch's words for a missing second derivative.
    except (DivergenceError, RuntimeError, NotImplementedError):
        return out
    out["ln_trace"], out["ln_top"] = _log(trace), _log(top)
    return out


def _log(value: float) -> float | None:
    """To a millionth: sums over a batch depend in their last digits on the number of threads."""
    return round(math.log(value), 6) if math.isfinite(value) and value > 0 else None
