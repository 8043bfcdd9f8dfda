"""Measures of a dense network against direct ones; what has no number is None."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probcomp.regime.measures import SAMPLES, dense_measures
from probcomp.regime.spectra import hill_alpha
from tests.regime import tiny_task


def test_trace_and_largest_eigenvalue_are_those_of_the_exact_hessian():
    """Softmax regression on 200 samples; those after them have no part."""
    torch.manual_seed(0)
    x, y = torch.randn(300, 6), torch.randint(0, 3, (300,))
    x[SAMPLES:] *= 100
    task = replace(tiny_task.task(), train=(x, y))
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3, bias=False))
    found = dense_measures(model, task)
    named = dict(model.named_parameters())
    flat = torch.cat([p.detach().flatten() for p in named.values()])

    def loss(vector):
        parts = vector.split([p.numel() for p in named.values()])
        values = {n: v.view_as(p) for (n, p), v in zip(named.items(), parts)}
        said = torch.func.functional_call(model, values, x[:SAMPLES])
        return F.cross_entropy(said, y[:SAMPLES])

    exact = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))
    # A hundred probes leave a few per cent, power iteration stops at a change of a thousandth.
    assert math.exp(found["ln_trace"]) == pytest.approx(float(exact.sum()), rel=0.1)
    assert math.exp(found["ln_top"]) == pytest.approx(float(exact[-1]), rel=0.03)
    assert found["alpha_mean"] is None  # no layer has fifty eigenvalues


def test_the_exponent_is_the_mean_over_large_layers():
    torch.manual_seed(0)
    task = replace(tiny_task.task(), train=(torch.randn(10, 60), torch.arange(10) % 3))
    model = nn.Sequential(nn.Linear(60, 55), nn.Tanh(), nn.Linear(55, 3))
    found = dense_measures(model, task)["alpha_mean"]
    assert found == pytest.approx(hill_alpha(model[0].weight))


class Once(torch.autograd.Function):
    """A layer that can be differentiated once."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        if torch.is_grad_enabled():  # as many kernels of torch do
            raise NotImplementedError("derivative of Once is not implemented")
        return gradient * 2


class OnceLayer(nn.Module):
    def forward(self, x):
        return Once.apply(x)


class Root(nn.Module):
    """Has a slope everywhere, and at zero no second derivative."""

    def forward(self, x):
        return x.abs().pow(1.5)


def test_a_curvature_that_is_not_finite_is_none():
    model = nn.Sequential(nn.Linear(6, 4), Root(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.zero_()
    found = dense_measures(model, tiny_task.task())
    assert found["ln_trace"] is None
    assert found["ln_top"] is None


def test_a_network_without_second_derivatives_has_no_curvature():
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), OnceLayer(), nn.Linear(4, 3))
    found = dense_measures(model, tiny_task.task())
    assert found["ln_trace"] is None
    assert found["ln_top"] is None
