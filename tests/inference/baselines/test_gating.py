"""Scales on what layers read: draws, means, sharing, folding."""

import copy

import pytest
import torch
from torch import Tensor, nn

from probcomp.inference.baselines.gating import Gate, Gating
from probcomp.inference.baselines.places import Place, Reader
from probcomp.inference.training.layers import Noise


class Known(Gate):
    """Scales that the test chooses."""

    def __init__(self, place: Place, mean: Tensor) -> None:
        super().__init__(place)
        self.value = nn.Parameter(mean)
        self.draws = 0

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        self.draws += 1
        return self.value + torch.arange(rows)[:, None]

    def mean(self) -> Tensor:
        return self.value.detach()


def noise(learn: bool = True) -> Noise:
    return Noise(torch.Generator().manual_seed(0), learn=learn)


class Twice(nn.Module):
    """Two layers that read the same values."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


def test_readers_of_a_unit_see_one_draw_a_step() -> None:
    model = Twice()
    readers = tuple(Reader(n, torch.arange(3)) for n in ("a", "b"))
    gate = Known(Place("x", "units", 3, readers, torch.ones(3), torch.ones(3)), torch.ones(3))
    gating = Gating(model, [gate], noise())
    x = torch.randn(4, 3)
    model.train()
    scaled = x * gate.draw(4, noise().generator)
    gate.draws = 0
    expected = nn.functional.linear(scaled, model.a.weight, model.a.bias)
    expected = expected + nn.functional.linear(scaled, model.b.weight, model.b.bias)
    torch.testing.assert_close(model(x), expected)
    assert gate.draws == 1
    gating.fresh()
    model(x)
    assert gate.draws == 2


@pytest.mark.parametrize("kind", ["dense", "sequence", "picture"])
def test_means_fold_into_the_weights(kind: str) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3) if kind == "picture" else nn.Linear(3, 4)
    x = {
        "dense": torch.randn(5, 3),
        "sequence": torch.randn(5, 7, 3),
        "picture": torch.randn(5, 3, 6, 6),
    }[kind]
    model = nn.Sequential(layer).eval()
    mean = torch.tensor([0.5, -2.0, 0.0])
    reader = Reader("0", torch.arange(3))
    gate = Known(Place("x", "units", 3, (reader,), torch.ones(3), torch.ones(3)), mean)
    gating = Gating(model, [gate], noise())
    before = model(x)
    gating.fold(model)
    torch.testing.assert_close(model(x), before)
    assert not layer._forward_pre_hooks
    assert not layer.weight[:, 2].any()


def test_draws_of_a_step_that_does_not_learn_have_no_gradient() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    place = Place("x", "units", 3, (Reader("0", torch.arange(3)),), torch.ones(3), torch.ones(3))
    for learn in (True, False):
        gate = Known(place, torch.ones(3))
        gating = Gating(copy.deepcopy(model), [gate], noise(learn))
        assert gate.scales(4, gating.noise).requires_grad is learn
