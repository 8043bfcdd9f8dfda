"""Curvature factors and what OBD and OBS make of them, against naive computations."""

import pytest
import torch
from torch import nn

from probcomp.data.batches import Batches
from probcomp.inference.baselines.curvature import (
    Curvature,
    compensate,
    curvatures,
    obd_saliency,
    obs_saliency,
)

DAMPING = 1e-3


def random(size: int, seed: int) -> torch.Tensor:
    x = torch.randn(4 * size, size, generator=torch.Generator().manual_seed(seed)).double()
    return x.T @ x / len(x)


def half_squared(model: nn.Module, batch) -> torch.Tensor:
    return 0.5 * (model(batch[0]) - batch[1]).square().flatten(1).sum(1).mean()


def test_linear_factors_are_moments() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    x, y = torch.randn(60, 4), torch.randn(60, 3)
    found = curvatures(model, Batches((x, y), 20), half_squared, ["0"], samples=60)["0.weight"]
    gradient = (model(x) - y).detach()
    torch.testing.assert_close(found.inputs, x.T @ x / 60)
    torch.testing.assert_close(found.outputs, gradient.T @ gradient / 60)
    assert not model[0]._forward_hooks
    assert model[0].weight.grad is None


class Thrice(nn.Module):
    """One layer for all positions: in one call, in a call each, or with positions as samples."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.layer, self.way = nn.Linear(4, 4), way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.way == "calls":
            return torch.stack([self.layer(part) for part in x.unbind(1)], 1)
        if self.way == "rows":
            return self.layer(x.flatten(0, 1)).view(x.shape)
        return self.layer(x)


@pytest.mark.parametrize("way", ["calls", "rows"])
def test_a_position_counts_once_however_it_comes(way) -> None:
    """A shared layer is a convolution over its uses."""
    x, y = torch.randn(20, 3, 4), torch.randn(20, 3, 4)
    found = []
    for each in ("whole", way):
        torch.manual_seed(0)
        model = Thrice(each)
        found.append(
            curvatures(model, Batches((x, y), 10), half_squared, ["layer"])["layer.weight"]
        )
    torch.testing.assert_close(found[0].inputs, found[1].inputs)
    torch.testing.assert_close(found[0].outputs, found[1].outputs)


def test_targets_drawn_from_the_model_give_the_fisher() -> None:
    """Half the squared error has unit Fisher information in the outputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    x = torch.randn(20_000, 4)

    def resample(m, batch, generator):
        mean = m(batch[0]).detach()
        return batch[0], mean + torch.randn(mean.shape, generator=generator)

    data = Batches((x, torch.full((20_000, 3), 9.0)), 1000)
    found = curvatures(model, data, half_squared, ["0"], samples=20_000, resample=resample)
    # Second moments of 20 thousand unit Gaussians.
    torch.testing.assert_close(found["0.weight"].outputs, torch.eye(3), rtol=0, atol=5e-2)


def test_convolution_factors_multiply_to_the_diagonal_of_a_single_position() -> None:
    """On an image that one kernel covers, a convolution is a linear layer."""
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten())
    dense = nn.Sequential(nn.Flatten(), nn.Linear(8, 3))
    with torch.no_grad():
        dense[1].weight.copy_(conv[0].weight.flatten(1))
        dense[1].bias.copy_(conv[0].bias)
    data = Batches((torch.randn(40, 2, 2, 2), torch.randn(40, 3)), 10)
    one = curvatures(conv, data, half_squared, ["0"], samples=40)["0.weight"]
    two = curvatures(dense, data, half_squared, ["1"], samples=40)["1.weight"]
    torch.testing.assert_close(one.inputs, two.inputs)
    torch.testing.assert_close(one.outputs, two.outputs)


def test_saliencies_against_the_full_matrix() -> None:
    a, g = random(5, 0), random(3, 1)
    weight = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    curvature = Curvature(a, g)
    full = torch.kron(g, a)
    obd = 0.5 * full.diagonal().reshape(3, 5) * weight.square()
    torch.testing.assert_close(obd_saliency(weight, curvature), obd)
    damped_a, damped_g = curvature.damped(DAMPING)
    inverse = torch.linalg.inv(torch.kron(damped_g, damped_a)).diagonal().reshape(3, 5)
    expected = weight.square() / (2 * inverse)
    found = obs_saliency(weight, curvature, DAMPING)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
def test_compensation_is_at_the_minimum_of_the_quadratic(density: float) -> None:
    a = random(6, 0)
    weight = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(4)) < density
    curvature = Curvature(a, torch.eye(4, dtype=torch.float64))
    found = compensate(weight, mask, curvature, DAMPING)
    assert not found[~mask].any()
    damped, _ = curvature.damped(DAMPING)
    free = found.clone().requires_grad_()
    change = free - weight
    (0.5 * torch.trace(change @ damped @ change.T)).backward()
    assert float(free.grad[mask].abs().max()) < 1e-10 if mask.any() else True


def test_one_removal_is_the_update_of_optimal_brain_surgeon() -> None:
    """``dw = - w_q / [H^-1]_qq H^-1 e_q`` (Hassibi and Stork, eq. 5)."""
    a = random(6, 0)
    weight = torch.randn(1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(1, 6, dtype=torch.bool)
    mask[0, 2] = False
    curvature = Curvature(a, torch.eye(1, dtype=torch.float64))
    damped, _ = curvature.damped(DAMPING)
    inverse = torch.linalg.inv(damped)
    expected = weight - weight[0, 2] / inverse[2, 2] * inverse[2]
    torch.testing.assert_close(compensate(weight, mask, curvature, DAMPING), expected)
