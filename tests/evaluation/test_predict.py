from types import SimpleNamespace

import pytest
import torch
from torch import nn

from probcomp.errors import InputError
from probcomp.evaluation import predict

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2, 0])


def test_log_probabilities_and_derived_values() -> None:
    model = nn.Linear(4, 3)
    found = predict(model, (X, Y), batch_size=3)
    p = torch.softmax(model(X).double(), 1)
    assert torch.allclose(found.log_probability.exp(), p, atol=1e-12)
    for i in range(7):
        assert found.correct[i] == (p[i].argmax() == Y[i])
        assert found.nll[i].item() == pytest.approx(-p[i, Y[i]].log().item(), rel=1e-12)


def test_logits_are_the_first_of_several_outputs() -> None:
    class Several(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    model = Several(4, 3)
    x, y = torch.randn(5, 4), torch.arange(5) % 3
    plain = nn.Linear(4, 3)
    plain.load_state_dict(model.state_dict())
    one, two = predict(model, (x, y)), predict(plain, (x, y))
    assert torch.equal(one.log_probability, two.log_probability)

    class Nothing(nn.Linear):
        def forward(self, x):
            return ()

    with pytest.raises(InputError, match="returned NoneType, which has no logits"):
        predict(Nothing(4, 3), (x, y))


def test_evaluation_mode_and_flags_restored() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9))
    model[0].eval()
    model[1].train()
    one, two = predict(model, (X, Y)), predict(model, (X, Y))
    assert torch.equal(one.log_probability, two.log_probability)
    assert [m.training for m in model.modules()] == [True, False, True]


def test_named_tensors_and_several_inputs() -> None:
    class Named(nn.Module):
        def forward(self, a, b):
            return SimpleNamespace(logits=a + b)

    z = torch.zeros(7, 3)
    by_name = predict(Named(), {"a": X[:, :3], "b": z, "labels": Y})

    class Two(nn.Module):
        def forward(self, a, b):
            return {"logits": a + b}

    assert torch.equal(by_name.log_probability, predict(Two(), (X[:, :3], z, Y)).log_probability)


@pytest.mark.parametrize(
    ("samples", "model", "says"),
    [
        ((X[:0], Y[:0]), nn.Linear(4, 3), "empty"),
        ((X, Y), nn.Linear(4, 2), "from 0 to 2, but the model has 2 classes"),
        ((X, Y - 1), nn.Linear(4, 3), "from -1"),
        ((X, Y.double()), nn.Linear(4, 3), "integer targets"),
        ((X, X), nn.Linear(4, 3), "integer targets"),
        ((X * torch.inf, Y), nn.Linear(4, 3), "not finite"),
        ({"x": X}, nn.Linear(4, 3), "need 'labels'"),
    ],
)
def test_refuses(samples, model, says) -> None:
    with pytest.raises(InputError, match=says):
        predict(model, samples)
