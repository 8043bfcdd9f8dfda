"""Codebook training, the choice of a price, curvature, and the plain sparse format."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probcomp.coding import coarsest, curvature, quantise, tune
from probcomp.coding.csr import csr_bytes, index_bits
from probcomp.data import Batches
from probcomp.errors import DivergenceError, InputError


def problem(samples: int = 256) -> tuple[nn.Module, Batches]:
    """A small trained classifier of a separable problem."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 6, generator=generator)
    y = (x[:, 0] + x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    batches = Batches((x, y), 32)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for epoch in range(20):
        for inputs, targets in batches(epoch):
            optimiser.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimiser.step()
    return model, batches


def loss(model: nn.Module, batches: Batches) -> float:
    x, y = batches.tensors
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y))


def test_tuning_lowers_the_loss_and_keeps_the_indices():
    model, batches = problem()
    coarse = quantise(model, 0.05)
    tuned = tune(coarse, batches, epochs=10, rate=1e-2)
    assert loss(tuned.model, batches) < loss(coarse.model, batches) - 0.01
    for name, parameter in tuned.model.named_parameters():
        assert torch.equal(tuned.index[name], coarse.index[name])
        assert ((parameter == 0) == (coarse.index[name] < 0)).all()
        assert parameter.unique().numel() <= coarse.books[name].numel() + 1
        assert torch.equal(parameter, parameter.half().float())
    again = tune(coarse, batches, epochs=10, rate=1e-2)
    assert all(torch.equal(again.books[n], tuned.books[n]) for n in tuned.books)


def test_no_epochs_change_nothing():
    model, batches = problem(64)
    coarse = quantise(model, 0.05)
    assert tune(coarse, batches, epochs=0) is coarse


def test_a_loss_that_is_not_finite_is_told():
    model, batches = problem(64)
    with pytest.raises(DivergenceError, match="tuning codebooks"):
        tune(quantise(model, 0.05), batches, epochs=1, loss=lambda m, b: m(b[0]).sum() * math.nan)


def test_the_coarsest_price_within_the_tolerance_is_found():
    model, batches = problem()
    prices = tuple(10.0**k for k in range(-6, 2))
    rise = [loss(quantise(model, p).model, batches) - loss(model, batches) for p in prices]
    tolerance = 0.02
    bearable = [p for p, r in zip(prices, rise) if r <= tolerance]
    choice = coarsest(model, lambda m: loss(m, batches), tolerance, prices=prices)
    assert choice.within
    assert choice.price in bearable
    assert choice.after <= choice.before + tolerance
    # Rises grow with the price here, so bisection finds the last that is bearable.
    assert rise == sorted(rise)
    assert choice.price == bearable[-1]


def test_no_price_within_the_tolerance_is_said():
    model, batches = problem(64)
    choice = coarsest(model, lambda m: loss(m, batches), -1.0, prices=(0.1, 1.0))
    assert not choice.within
    assert choice.price == 0.1


def test_curvature_of_logistic_regression_in_closed_form():
    torch.manual_seed(0)
    model = nn.Linear(3, 4, bias=False)
    x = torch.randn(4000, 3)
    with torch.no_grad():
        p = model(x).softmax(1)
    # Fisher information of a softmax: E[x_j^2 p_i (1 - p_i)].
    exact = torch.einsum("ni,nj->ij", p * (1 - p), x.square()) / len(x)
    found = curvature(model, x, total=100, samples=4000)["weight"] / 100
    # 4,000 draws of heavy-tailed squares: relative deviation about 5 %.
    assert torch.allclose(found, exact, rtol=0.25, atol=0)
    assert (found / exact).mean().item() == pytest.approx(1, abs=0.05)


def test_curvature_needs_a_classifier():
    with pytest.raises(InputError, match="logits"):
        curvature(nn.Identity(), torch.randn(8, 2, 2), total=8)


def test_relative_indices_by_hand():
    kept = np.zeros((1, 40), bool)
    kept[0, [0, 17, 39]] = True
    # Zeros between: 0, 16, 21; with 4 bits a distance covers 15 zeros and one entry, so the last
    # two need one filler each.
    assert index_bits(kept, 4, 3) == 5 * 7
    assert index_bits(kept, 8, 3) == 3 * 11


def test_csr_counts_codebooks_values_and_lines():
    model = nn.Linear(8, 4)
    with torch.no_grad():
        model.weight.zero_()
        model.weight[1, :4] = torch.tensor([1.0, 2.0, 1.0, 2.0])
        model.bias.zero_()
        model.bias[:2] = 0.5
    quantised = quantise(model, 1e-9)
    # Weight: lines 4 + 8, 2 centroids, 4 dense entries of 1 bit. Bias: lines 1 + 4, one centroid.
    assert csr_bytes(quantised) == math.ceil((12 + 32 + 4 + 5 + 16) / 8)
