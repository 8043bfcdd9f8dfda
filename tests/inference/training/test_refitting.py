import math

import pytest
import torch
from torch import nn

from probcomp.data.batches import Batches
from probcomp.errors import DivergenceError
from probcomp.inference.training import apply_masks, refit


def test_masked_weights_stay_zero_and_the_rest_learn() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    x = torch.randn(80, 4)
    truth = torch.tensor([[1.0, 0, 0, 0], [0, 0, -2, 0]])
    batches = Batches((x, x @ truth.T), 20)
    mask = truth != 0
    loss = lambda m, b: (m(b[0]) - b[1]).square().mean()  # noqa: E731
    history = refit(
        model, batches, loss=loss, masks={"weight": mask}, epochs=150, learning_rate=0.05
    )
    assert not model.weight[~mask].any()
    assert torch.allclose(model.weight, truth, atol=1e-2)
    assert history[-1] < 1e-3 * history[0]
    assert not model.training


def test_steps_cross_epochs_from_any_place() -> None:
    x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    seen: list[int] = []

    class Counting(Batches):
        def __call__(self, epoch: int = 0):
            seen.append(epoch)
            return super().__call__(epoch)

    loss = lambda m, b: m(b[0]).square().mean()  # noqa: E731
    batches = Counting((x, x), 20)
    go = lambda **how: refit(  # noqa: E731
        nn.Linear(4, 2), batches, loss=loss, masks={}, learning_rate=0.01, **how
    )
    assert len(go(steps=6, place=(3, 2))) == 2  # two batches of epoch 3, four of epoch 4
    assert seen[:2] == [3, 4]
    assert len(go(epochs=2, place=(3, 2))) == 2
    assert go(steps=0) == []


def test_masks_broadcast() -> None:
    model = nn.Linear(3, 2)
    apply_masks(model, {"weight": torch.tensor([[True], [False]])})
    assert model.weight[0].all()
    assert not model.weight[1].any()


def test_a_loss_that_is_not_finite_stops() -> None:
    batches = Batches((torch.ones(4, 2), torch.ones(4, 2)), 2)
    loss = lambda m, b: m(b[0]).sum() * math.nan  # noqa: E731
    with pytest.raises(DivergenceError, match="refit epoch 0"):
        refit(nn.Linear(2, 2), batches, loss=loss, masks={}, epochs=1, learning_rate=0.1)
