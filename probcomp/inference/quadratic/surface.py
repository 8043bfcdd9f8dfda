"""What was found at the nodes of a grid, between them: piecewise cubics.

Logarithms of evidence are smooth over a step of the grid, and what several layers say together is
sharper than any of them: on the nodes alone the best would be the one that happens to lie on the
ridge of all.
"""

import itertools

import numpy as np
from scipy.interpolate import CloughTocher2DInterpolator, CubicSpline

Node = tuple[int, int]

FINE = 4
"""Steps of the finer grid for one step of the coarser."""


def refine(values: dict[Node, np.ndarray]) -> dict[Node, np.ndarray]:
    """Values ``[n]`` on a grid, on one ``FINE`` times as fine, within the hull of its nodes.

    Nodes in both directions by Clough and Tocher (1965), in a row by a cubic spline; a row has no
    gaps. Keys of the result count finer steps, so ``(i, j)`` comes back as ``(FINE i, FINE j)``.
    """
    nodes = np.array(list(values))
    known = np.stack(list(values.values()))
    low, high = nodes.min(0), nodes.max(0)
    ranges = [range(FINE * a, FINE * b + 1) for a, b in zip(low, high, strict=True)]
    finer: list[Node] = list(itertools.product(ranges[0], ranges[1]))
    at = np.array(finer) / FINE
    along = np.flatnonzero(low != high)
    if len(along) == 0:
        found = known
    elif len(along) == 1:
        order = nodes[:, along[0]].argsort()
        found = CubicSpline(nodes[order, along[0]], known[order])(at[:, along[0]])
    else:
        # Quadratics come back exactly: only what one leaves is interpolated.
        fit = np.linalg.lstsq(_powers(nodes), known, rcond=None)[0]
        rest = CloughTocher2DInterpolator(nodes, known - _powers(nodes) @ fit)(at)
        found = rest + _powers(at) @ fit
    return {node: row for node, row in zip(finer, found, strict=True) if not np.isnan(row[0])}


def _powers(at: np.ndarray) -> np.ndarray:
    """Monomials of at most second order, ``[n, 6]``."""
    x, y = at.T
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1)
