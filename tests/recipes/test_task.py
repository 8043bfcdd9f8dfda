from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from probcomp.errors import InputError
from probcomp.evidence.fisher import Categorical
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


def test_terms_of_the_loss_are_the_targets_it_is_a_mean_of():
    x = torch.randn(4, 5, 3)
    tokens = torch.arange(20).view(4, 5)
    padded = tokens.masked_fill(tokens % 5 > 2, -100)
    assert Task().terms((x, torch.arange(4))) == 4
    assert Task().terms((x, x)) == 4  # half the squared error sums over all but the samples
    assert Task().terms((x, padded)) == 12
    assert Task().terms({"input_ids": tokens, "labels": padded}) == 12
    assert Task().terms({"input_ids": tokens}) == 4
    assert Task(lambda outputs, targets: outputs.mean()).terms((x, tokens)) == 4
    assert Task(likelihood=Categorical(unit="token")).terms((x, padded)) == 12
    # And the loss is that mean.
    logits, targets = torch.randn(4, 5, 7), padded.clamp_max(6)
    each = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    torch.testing.assert_close(default_criterion(logits, targets), each.sum() / 12)


class Stream(IterableDataset):
    def __init__(self, *tensors):
        self.tensors = tensors

    def __iter__(self):
        return zip(*self.tensors, strict=True)


def test_a_loader_is_read_as_it_would_be_trained_on():
    x, y = torch.randn(6, 3), torch.arange(6)
    data = TensorDataset(x, y)
    part = as_tensors(DataLoader(data, 2, sampler=SubsetRandomSampler([4, 1, 2])))
    assert part[1].tolist() == [1, 2, 4]  # never those that were set aside for a test

    def named(samples):
        return {"inputs": torch.stack([s[0] for s in samples]) + 1,
                "labels": torch.stack([s[1] for s in samples])}  # fmt: skip

    found = as_tensors(DataLoader(data, 2, shuffle=True, collate_fn=named))
    assert torch.equal(found["inputs"], x + 1)
    for stream in (Stream(x, y), DataLoader(Stream(x, y), 4)):
        assert torch.equal(as_tensors(stream)[0], x)
    weighted = WeightedRandomSampler([1.0] * 6, 6)
    for loader, says in (
        (DataLoader(data, 2, sampler=weighted), "a WeightedRandomSampler"),
        (DataLoader(data, 2, sampler=RandomSampler(data, True, 3)), "with replacement"),
        (DataLoader(data, 2, sampler=RandomSampler(data, num_samples=3)), "draws 3 of 6 samples"),
        (DataLoader(data, batch_size=None), "makes no batches"),
        (DataLoader(data, batch_sampler=[[0, 1]]), "batches of its own"),
        (DataLoader(Stream(x[:0], y[:0]), 4), "holds no samples"),
    ):
        with pytest.raises(InputError, match=says):
            as_tensors(loader)


def test_split_is_disjoint_and_seeded():
    x = torch.arange(20)
    train, held = split((x, x), 0.1, seed=0)
    assert len(held[0]) == 2
    assert sorted(torch.cat([train[0], held[0]]).tolist()) == list(range(20))
    assert torch.equal(split((x, x), 0.1, seed=0)[1][0], held[0])
    with pytest.raises(InputError, match="cannot be split"):
        split((x[:1], x[:1]), 0.1, seed=0)


@pytest.mark.parametrize("limit", ["MOST_ITERATED", "MOST_BYTES"])
def test_a_stream_without_an_end_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    class Endless(IterableDataset):
        def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
            while True:
                yield torch.zeros(100), 1

    monkeypatch.setattr(f"probcomp.recipes.task.{limit}", 1000)
    for data in (Endless(), DataLoader(Endless(), 4)):
        with pytest.raises(InputError, match=r"goes on after .* samples"):
            as_tensors(data)
