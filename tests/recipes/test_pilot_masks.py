"""Methods of the package as pruning rules of pilots."""

import pytest

from probcomp.errors import InputError
from probcomp.recipes.methods import METHODS
from probcomp.recipes.pilot_masks import address
from probcomp.regime.pruning import density_of, load_rule, make_masks
from tests.regime import tiny_task


def test_a_method_of_the_package_chooses_the_mask():
    task = tiny_task.task()
    model = task.fresh(0)
    masks = make_masks(model, task, 0.4, address("magnitude"), seed=0)
    assert all(masks[name].shape == model.get_parameter(name).shape for name in masks)
    # It decides over all layers, so the density of the prunable ones is met roughly.
    assert density_of(model, masks, task) == pytest.approx(0.4, abs=0.2)


def test_every_method_has_an_address_and_no_other_name_has():
    for method in METHODS:
        assert callable(load_rule(address(method)))
    with pytest.raises(InputError, match=r"there are: .*magnitude"):
        load_rule(address("by-feel"))
