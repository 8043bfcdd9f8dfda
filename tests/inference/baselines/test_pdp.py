"""PDP: the soft mask is a posterior, its gradient, the budget."""

import dataclasses
import math

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.baselines import PDPConfig, pdp
from probcomp.inference.baselines.pdp import _SoftMask, slab_probability, soft_mask
from tests.inference.baselines.networks import accuracy, limit, setting


@pytest.mark.parametrize(("inclusion", "slab", "spike"), [(0.1, 0.3, 0.02), (0.5, 1.0, 0.1)])
def test_the_soft_mask_is_the_posterior_of_the_slab(inclusion, slab, spike) -> None:
    """Against Bayes' rule with two Gaussian densities."""
    temperature = 2 / (spike**-2 - slab**-2)
    square = temperature * math.log((1 - inclusion) * slab / (inclusion * spike))
    weight = torch.linspace(-3 * slab, 3 * slab, 61, dtype=torch.float64)
    wide = torch.distributions.Normal(0, slab).log_prob(weight).exp() * inclusion
    narrow = torch.distributions.Normal(0, spike).log_prob(weight).exp() * (1 - inclusion)
    posterior = wide / (wide + narrow)
    torch.testing.assert_close(soft_mask(weight, math.sqrt(square), temperature), posterior)
    torch.testing.assert_close(slab_probability(weight, inclusion, slab, spike), posterior)


def test_the_gradient_flows_through_both_factors() -> None:
    weight = torch.linspace(-1, 1, 11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: _SoftMask.apply(w, 0.4, 0.05), (weight,))


def test_the_budget_is_met_and_the_network_works() -> None:
    given = setting(8)
    given = dataclasses.replace(given, limit=limit(given.model, 60))
    config = PDPConfig(epochs=10, refit_epochs=5, refresh=2, learning_rate=5e-3)
    found = pdp(given, config)
    assert 56 <= given.limit.spent(found.masks, found.keep) <= 60
    assert accuracy(found.model, 8) > 0.9
    assert all(edge > 0 for edge in found.meta["edges"].values())
    again = pdp(given, config)
    assert all(torch.equal(found.masks[n], again.masks[n]) for n in found.masks)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="give a budget"):
        pdp(setting())
    with pytest.raises(InputError, match="dense_share < ramp"):
        PDPConfig(dense_share=0.8)
