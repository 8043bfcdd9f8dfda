import pytest
import torch

from probcomp.errors import InputError
from probcomp.evidence.magnitude import group_norms
from probcomp.structure import trace
from tests.recipes.nets import trained

ROUNDING = 1e-12  # sums of squares in float64 on both sides


def test_the_norm_is_over_everything_that_goes_with_a_unit():
    model = trained()
    structure = trace(model, (torch.zeros(2, 6),))
    axis = next(a for a in structure.axes if a.size == 12 and not a.blocked)
    norms = group_norms(dict(model.named_parameters()), axis)
    for unit in range(12):
        parts = (model.two.weight[unit], model.two.bias[[unit]], model.three.weight[:, unit])
        naive = sum(w**2 for part in parts for w in part.tolist()) ** 0.5
        assert abs(float(norms[unit]) - naive) <= ROUNDING * naive


def test_slices_that_are_not_given_are_refused():
    structure = trace(trained(), (torch.zeros(2, 6),))
    with pytest.raises(InputError, match="has no slice"):
        group_norms({}, structure.axes[0])
