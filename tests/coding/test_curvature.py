"""Diagonal Fisher information against closed forms."""

import pytest
import torch
from torch import nn

from probcomp.coding import curvature
from probcomp.errors import InputError


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


def test_the_same_seed_gives_the_same_curvature_and_leaves_the_model_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    x = torch.randn(50, 3)
    one, two = (curvature(model, x, total=50, samples=20, seed=3) for _ in range(2))
    assert set(one) == {n for n, _ in model.named_parameters()}
    assert all(torch.equal(one[n], two[n]) and (one[n] >= 0).all() for n in one)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert model.training
    other = curvature(model, x, total=100, samples=20, seed=3)
    assert torch.allclose(other["0.weight"], 2 * one["0.weight"])
