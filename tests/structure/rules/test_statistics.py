"""Sums keep removal exact; what divides by a number of units or mixes them does not."""

import pytest

from ..cutting import free
from .cases import held, neuron

EXACT = [
    neuron("sum_of_others", lambda z: z + 0 * z.sum(0, keepdim=True), [("neuron", 9)]),
    neuron("cumulated_samples", lambda z: z.cumsum(0), [("neuron", 9)]),
]
INEXACT = [
    neuron("mean_of_units", lambda z: z / (2 + z.mean(1, keepdim=True)), [("neuron", 9)]),
    neuron("variance", lambda z: z / (1 + z.var(1, keepdim=True)), [("neuron", 9)]),
]


@pytest.mark.parametrize("case", EXACT + INEXACT, ids=lambda case: case.name)
def test_statistics(case) -> None:
    held(case)


@pytest.mark.parametrize("case", EXACT + INEXACT, ids=lambda case: case.name)
def test_only_statistics_over_units_are_inexact(case) -> None:
    _, structure, _ = case.build()
    (axis,) = free(structure)
    assert axis.exact == (case in EXACT)
    if not axis.exact:
        assert axis.inexact_because


def test_a_sum_over_units_reads_them_exactly() -> None:
    case = neuron("total", lambda z: z * z.sum(1, keepdim=True), [("neuron", 9)])
    _, structure, _ = case.build()
    assert [a.exact for a in free(structure)] == [True]
