"""The loss of a batch, and what stands for batches by epoch."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from probcomp.data import Batches
from probcomp.data.epochs import EpochBatches, default_loss


def test_the_default_loss_is_the_cross_entropy():
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    batch = (logits, torch.tensor([0, 1]))
    assert default_loss(nn.Identity(), batch).item() == pytest.approx(0.6931472)


def test_named_tensors_have_the_model_s_own_loss():
    class Own(nn.Module):
        def forward(self, x, labels):
            return SimpleNamespace(loss=(x - labels).sum())

    assert default_loss(Own(), {"x": torch.tensor([3.0]), "labels": torch.tensor([1.0])}) == 2


def test_batches_are_batches_by_epoch():
    batches: EpochBatches = Batches((torch.zeros(5, 2), torch.zeros(5).long()), 2)
    assert batches.samples == 5
    assert [len(x) for x, _ in batches(0)] == [2, 3]  # none of one sample: batch norm fails on it
