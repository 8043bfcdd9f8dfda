"""Sparse variational dropout: gradients, and the rule."""

import torch
from torch import nn

from probcomp.inference.baselines import SparseVDConfig, sparse_vd
from probcomp.inference.baselines.sparse_vd import LogUniformWeights
from tests.inference.baselines.networks import SHORT, setting


def layer() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    made = nn.Linear(3, 2).double()
    for name in ("weight", "weight_log_sigma"):
        value = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        made.register_parameter(name, nn.Parameter(value))
    return made


def test_closed_gradients_are_those_of_the_value() -> None:
    made = layer()
    term = LogUniformWeights({"w": made})
    term.value().backward()
    expected = made.weight.grad.clone(), made.weight_log_sigma.grad.clone()
    torch.testing.assert_close(term.slope(made), expected)
    term.add_gradient(2.0)
    torch.testing.assert_close(made.weight.grad, 3 * expected[0])
    torch.testing.assert_close(made.weight_log_sigma.grad, 3 * expected[1])


def test_a_parameter_without_gradient_takes_no_part() -> None:
    made = layer()
    term = LogUniformWeights({"w": made}, refresh=4)
    made.weight.grad = torch.zeros_like(made.weight)
    term.add_gradient(1.0)
    assert made.weight_log_sigma.grad is None
    assert made.weight.grad.any()


def test_the_rule_is_the_dropout_rate() -> None:
    """The mask is what ``ln alpha`` says, but for weights of units that nobody reads."""
    strict = sparse_vd(setting(8), SparseVDConfig(**SHORT))
    loose = sparse_vd(setting(8), SparseVDConfig(**SHORT, threshold=1e9))
    assert all(bool(mask.all()) for mask in loose.masks.values())
    assert strict.meta["threshold"] == 3.0
    assert not all(bool(mask.all()) for mask in strict.masks.values())
    bits = strict.meta["bits"]["0.weight"]
    assert bits["total"] == 1 + bits["significand"] + bits["exponent"]
