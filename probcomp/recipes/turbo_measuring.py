r"""The evidence of single weights by quadrature over the measured loss.

Where a weight matters, the loss is no quadratic as far as the slab reaches, and the quadratic's
evidence may be far off. There the loss itself is evaluated, at the nodes of adaptive Gauss-Hermite
quadrature (Naylor and Smith 1982) about the quadratic's slab posterior
:math:`N(m, 1/(\lambda + 1/v))` and once more about the moments found there, and at three about the
spike:

.. math:: l = \ln\int N(w; 0, v)\,e^{L(w)}\,dw - \ln\int N(w; 0, \kappa v)\,e^{L(w)}\,dw

with :math:`L(w)` the log-likelihood of all training data less that at zero, the other weights at
their means. Some weights of each range are then checked against a dense grid: of the same integral,
so that it says nothing of what fixing the others does.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.polynomial.hermite_e import hermegauss

from probcomp.inference.training.evidence import Scale

SLAB_NODES, SPIKE_NODES = 5, 3
"""Nodes of the quadratures; exact where the loss is quadratic."""

PASSES, NARROWEST = 2, 0.2
"""The second pass is about the moments that the first found, at least this much as wide."""

REACH = 3.5
"""Deviations of the slab that the dense grid spans; 0.0005 of it lies beyond."""

Nats = Callable[[float], float]
"""Log-likelihood with the weight at a value, less that at zero."""


def measured_evidence(nats: Nats, curvature: float, linear: float, scale: Scale) -> float:
    """Evidence for the support, nats.

    Args:
        nats: Log-likelihood along the weight.
        curvature: ``lambda`` of the quadratic that the nodes follow.
        linear: Its ``eta``.
        scale: Slab and spike.
    """
    sharp = max(curvature, 0.0) + 1 / scale.slab
    center, deviation = linear / sharp, sharp**-0.5
    z, weight = _nodes(SLAB_NODES)
    total = 0.0
    for _ in range(PASSES):
        w = center + deviation * z
        log = np.array([nats(float(x)) for x in w]) - 0.5 * w**2 / scale.slab + 0.5 * z**2
        log += math.log(deviation) - 0.5 * math.log(scale.slab)
        total = _log_sum(log, weight)
        share = weight * np.exp(log - total)
        center = float(share @ w)
        deviation *= max(float(np.sqrt(share @ (w - center) ** 2)) / deviation, NARROWEST)
    return total - _spike(nats, scale)


def grid_evidence(nats: Nats, curvature: float, linear: float, scale: Scale) -> float:
    """The same on a grid over the slab and a finer one about the quadratic's posterior."""
    width = REACH * math.sqrt(scale.slab)
    sharp = max(curvature, 0.0) + 1 / scale.slab
    center, deviation = linear / sharp, sharp**-0.5
    fine = center + deviation * np.linspace(-5, 5, 21)
    w = np.union1d(np.linspace(-width, width, 21), fine[np.abs(fine) <= width])
    log = np.array([nats(float(x)) for x in w]) - 0.5 * w**2 / scale.slab
    log -= 0.5 * math.log(2 * math.pi * scale.slab)
    steps = np.diff(w)
    weight = 0.5 * (np.append(steps, 0.0) + np.insert(steps, 0, 0.0))
    return _log_sum(log, weight) - _spike(nats, scale)


def misfit(stated: Sequence[float], dense: Sequence[float]) -> float:
    """Root mean square error of stated log-odds, over the larger of one nat and their size."""
    first, second = np.asarray(stated), np.asarray(dense)
    error = (first - second) / np.maximum(1.0, np.abs(second))
    return float(np.sqrt((error**2).mean()))


def _spike(nats: Nats, scale: Scale) -> float:
    z, weight = _nodes(SPIKE_NODES)
    w = z * math.sqrt(scale.kappa * scale.slab)
    return _log_sum(np.array([nats(float(x)) if x else 0.0 for x in w]), weight)


def _nodes(count: int) -> tuple[np.ndarray, np.ndarray]:
    z, weight = hermegauss(count)
    return z, weight / weight.sum()


def _log_sum(log: np.ndarray, weight: np.ndarray) -> float:
    top = float(log.max())
    return top + math.log(float((weight * np.exp(log - top)).sum()))
