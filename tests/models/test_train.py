import math

import pytest
import torch
from torch import nn

from probcomp.data import Batches, load_digits
from probcomp.errors import DivergenceError, InputError
from probcomp.evaluation import predict
from probcomp.models import LeNet300100, train


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


X = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(50) % 3


def test_same_seed_same_weights_and_no_global_effect() -> None:
    models = [network() for _ in range(3)]
    torch.manual_seed(123)
    expected = torch.rand(4)
    torch.manual_seed(123)
    losses = [train(m, Batches((X, Y), 16, 0), epochs=2, seed=s) for m, s in zip(models, (1, 1, 2))]
    assert torch.equal(torch.rand(4), expected)
    assert losses[0] == losses[1] != losses[2]
    one, two = (list(m.parameters()) for m in models[:2])
    assert all(torch.equal(a, b) for a, b in zip(one, two))
    assert not models[0].training


def test_first_epoch_is_adamw_with_cosine() -> None:
    """Against torch's own optimiser and schedule, step by step."""
    model, reference = (network() for _ in range(2))
    model[2].p = reference[2].p = 0.0
    batches = Batches((X, Y), 25, 0)
    losses = train(model, batches, epochs=2, lr=0.01, weight_decay=0.1)
    optimiser = torch.optim.AdamW(reference.parameters(), 0.01, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 4)
    means = []
    for epoch in range(2):
        means.append(0.0)
        for x, y in batches(epoch):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(reference(x), y)
            loss.backward()
            optimiser.step()
            schedule.step()
            means[-1] += loss.item() / 2
    for a, b in zip(model.parameters(), reference.parameters()):
        assert torch.allclose(a, b, atol=1e-6)
    assert losses == pytest.approx(means, rel=1e-6)


def test_learns_the_digits() -> None:
    data = load_digits(0)
    torch.manual_seed(0)
    model = LeNet300100(64)
    losses = train(model, Batches(data.train, 64, 0), epochs=12)
    assert losses[-1] < 0.1 * losses[0]
    assert predict(model, data.test).correct.double().mean() > 0.94


def test_own_loss_of_named_tensors() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(4, 3)

        def forward(self, x, labels):
            from types import SimpleNamespace

            return SimpleNamespace(loss=nn.functional.cross_entropy(self.line(x), labels))

    losses = train(Net(), Batches({"x": X, "labels": Y}, 50, 0), epochs=3, lr=0.1)
    assert losses[-1] < losses[0]


def test_divergence_names_the_step() -> None:
    model = network()

    def loss(model, batch):
        value = nn.functional.cross_entropy(model(batch[0]), batch[1])
        loss.calls += 1
        return value * (math.nan if loss.calls == 4 else 1)

    loss.calls = 0
    with pytest.raises(DivergenceError, match=r"nan at step 3 \(epoch 1\)"):
        train(model, Batches((X, Y), 25, 0), epochs=4, loss=loss)


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"epochs": 1, "lr": 0.0}])
def test_refuses_bad_settings(bad) -> None:
    with pytest.raises(InputError, match="epochs"):
        train(network(), Batches((X, Y), 25, 0), **bad)
