"""Between the nodes of a grid."""

import itertools

import numpy as np

from probcomp.inference.quadratic.surface import FINE, refine


def hill(i: float, j: float) -> np.ndarray:
    """A ridge that runs across the grid, and a value that levels off."""
    return np.array([-((i - 0.7 * j - 0.3) ** 2) - 0.05 * (j - 0.4) ** 2, np.tanh(0.4 * i - j)])


def test_a_smooth_surface_comes_back() -> None:
    nodes = [(i, j) for i, j in itertools.product(range(-4, 5), repeat=2) if abs(i - j) < 4]
    found = refine({node: hill(*node) for node in nodes})
    for node in nodes:  # nodes themselves are kept
        np.testing.assert_allclose(found[FINE * node[0], FINE * node[1]], hill(*node), atol=1e-12)
    inner = {n: v for n, v in found.items() if max(map(abs, n)) <= 2 * FINE}
    assert len(inner) > 200
    for (i, j), value in inner.items():
        truth = hill(i / FINE, j / FINE)
        assert abs(value[0] - truth[0]) < 1e-9  # quadratic
        assert abs(value[1] - truth[1]) < 0.06


def test_the_top_is_found_between_the_nodes() -> None:
    """The sharper the sum of many surfaces, the more the nodes alone are off."""
    nodes = {(i, j): 30 * hill(i, j) for i in range(-3, 4) for j in range(-3, 4)}
    i, j = max((found := refine(nodes)), key=lambda n: found[n][0])
    coarse = max(nodes, key=lambda n: nodes[n][0])
    top = np.array([0.3 + 0.7 * 0.4, 0.4])
    assert abs(np.array([i, j]) / FINE - top).max() < abs(np.array(coarse) - top).max() - 0.1


def test_nothing_lies_outside_of_the_hull() -> None:
    triangle = {(0, 0): np.zeros(1), (1, 0): np.ones(1), (0, 1): np.ones(1)}
    found = refine(triangle)
    assert all(i + j <= FINE for i, j in found)
    assert len(found) == (FINE + 1) * (FINE + 2) // 2


def test_one_row_and_one_node() -> None:
    row = refine({(i, 2): np.array([-(i**2.0)]) for i in (1, -1, 0, 2)})
    assert set(row) == {(i, 2 * FINE) for i in range(-FINE, 2 * FINE + 1)}
    for (i, _), value in row.items():
        np.testing.assert_allclose(value, [-((i / FINE) ** 2)], atol=1e-12)
    assert list(refine({(1, 3): np.array([2.0])})) == [(FINE, 3 * FINE)]
