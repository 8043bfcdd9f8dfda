"""Units that nothing reads."""

import torch

from probcomp.recipes.needed import needed
from probcomp.structure import Axis
from tests.recipes.jobs import job


def axis_of_two() -> Axis:
    return next(a for a in job("params=0.3").units if a.size == 12)


def test_units_nobody_reads_go() -> None:
    axis = axis_of_two()
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[:, [2, 5]] = False
    keep = needed(axis, {"three.weight": mask, "two.weight": torch.zeros(12, 24, dtype=torch.bool)})
    assert keep.tolist() == [i not in (2, 5) for i in range(12)]
    nothing = needed(axis, {"three.weight": torch.zeros(3, 12, dtype=torch.bool)})
    assert int(nothing.sum()) == axis.min_keep
    assert bool(needed(axis, {}).all())


def test_the_dimension_of_inputs_may_be_another_and_unknown_weights_read_nothing() -> None:
    axis = axis_of_two()
    produced = torch.ones(12, 24, dtype=torch.bool)
    produced[3] = False
    # The rows of two.weight make the units; only said to be inputs, they read them.
    assert bool(needed(axis, {"two.weight": produced}).all())
    turned = needed(axis, {"two.weight": produced}, {"two.weight": 0})
    assert turned.tolist() == [i != 3 for i in range(12)]
    assert bool(needed(axis, {"two.weight": produced}, {"three.weight": 1}).all())
