from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from probcomp.errors import InputError
from probcomp.recipes.task import Task, as_tensors, default_criterion, logits_of, split


def test_integer_targets_cost_cross_entropy():
    logits, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 2, 1])
    expected = -logits.log_softmax(1)[torch.arange(5), targets].mean()
    assert torch.allclose(default_criterion(logits, targets), expected)


def test_language_models_and_pictures():
    logits, targets = torch.randn(2, 7, 4), torch.randint(4, (2, 7))
    expected = F.cross_entropy(logits.reshape(-1, 4), targets.reshape(-1))
    assert torch.allclose(default_criterion(logits, targets), expected)
    planes = torch.randn(2, 4, 3, 3)
    targets = torch.randint(4, (2, 3, 3))
    assert torch.allclose(default_criterion(planes, targets), F.cross_entropy(planes, targets))


def test_real_targets_are_gaussian_of_unit_variance():
    outputs, targets = torch.randn(4, 2), torch.randn(4, 2)
    log_density = torch.distributions.Normal(outputs, 1).log_prob(targets).sum(1)
    constant = torch.log(torch.tensor(2 * torch.pi))  # 1/2 log 2 pi for each of two dimensions
    assert torch.allclose(default_criterion(outputs, targets), -log_density.mean() - constant)


@pytest.mark.parametrize(
    ("logits", "targets", "says"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), "do not fit targets"),
        (torch.ones(2, 3), torch.tensor([[1], [2]]), "one class dimension more"),
        (torch.ones(2, 3), torch.tensor([0, 3]), "go up to 3, but the model has 3 outputs"),
    ],
)
def test_targets_that_do_not_fit(logits, targets, says):
    with pytest.raises(InputError, match=says):
        default_criterion(logits, targets)


def test_dict_batches_use_the_models_own_loss():
    class Model(nn.Module):
        def forward(self, x, labels=None):
            return SimpleNamespace(loss=None if labels is None else x.mean(), logits=x)

    batch = {"x": torch.tensor([1.0, 3.0]), "labels": torch.tensor([0, 1])}
    assert float(Task().loss(Model(), batch)) == 2.0
    assert set(Task.inputs(batch)) == {"x"}
    with pytest.raises(InputError, match="returned no loss"):
        Task().loss(Model(), {"x": torch.ones(2)})
    weighted = Task(lambda outputs, b: outputs.logits.sum() + b["labels"].sum())
    assert float(weighted.loss(Model(), batch)) == 5.0


def test_logits_of_what_models_return():
    x = torch.ones(1)
    assert logits_of(x) is x
    assert logits_of((x, None)) is x
    with pytest.raises(InputError, match="has no logits"):
        logits_of({"a": 1})


def test_data_in_the_forms_users_hold_it():
    x, y = torch.randn(4, 3), torch.arange(4)
    for data in ((x, y), [x, y], TensorDataset(x, y), DataLoader(TensorDataset(x, y), 2)):
        first, second = as_tensors(data)
        assert torch.equal(first, x)
        assert torch.equal(second, y)
    assert set(as_tensors({"a": x.numpy(), "labels": y})) == {"a", "labels"}
    for bad, says in ((3, "not understood"), ("text", "not understood")):
        with pytest.raises(InputError, match=says):
            as_tensors(bad)


def test_split_is_disjoint_and_seeded():
    x = torch.arange(20)
    train, held = split((x, x), 0.1, seed=0)
    assert len(held[0]) == 2
    assert sorted(torch.cat([train[0], held[0]]).tolist()) == list(range(20))
    assert torch.equal(split((x, x), 0.1, seed=0)[1][0], held[0])
    with pytest.raises(InputError, match="cannot be split"):
        split((x[:1], x[:1]), 0.1, seed=0)
