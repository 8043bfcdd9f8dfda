"""The likelihood behind a loss: found where it is one that is known, and never guessed."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probcomp.evidence.fisher import Categorical, Gaussian
from probcomp.recipes.likelihoods import likelihood_of, probe_of
from probcomp.recipes.task import Task

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(4, 5, 3, generator=GENERATOR)  # [samples, positions, classes]
LABELS = torch.randint(3, (4, 5), generator=GENERATOR)


class Own(nn.Module):
    """A model with a loss of its own."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, logits, labels):
        return SimpleNamespace(logits=logits, loss=self.loss(logits, labels))


def flat(logits, labels):
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


@pytest.mark.parametrize(
    ("loss", "logits", "labels", "expected"),
    [
        (flat, LOGITS[:, 0], LABELS[:, 0], Categorical()),
        (flat, LOGITS, LABELS, Categorical(unit="token")),
        (
            lambda z, y: flat(z[:, :-1], y[:, 1:]), LOGITS, LABELS,
            Categorical(shift=True, unit="token"),
        ),
        (lambda z, y: 2 * flat(z, y), LOGITS, LABELS, None),
        (lambda z, y: None, LOGITS, LABELS, None),
    ],
    ids=["classes", "tokens", "next tokens", "another loss", "no loss"],
)  # fmt: skip
def test_a_loss_of_the_model_s_own_is_recognised_by_its_value(loss, logits, labels, expected):
    assert likelihood_of(Task(), Own(loss), {"logits": logits, "labels": labels}) == expected


def test_pairs_have_the_default_likelihoods():
    assert likelihood_of(Task(), nn.Identity(), (LOGITS[:, 0], LABELS[:, 0])) == Categorical()
    assert likelihood_of(Task(), nn.Identity(), (LOGITS[:, 0], LOGITS[:, 0])) == Gaussian()


def test_what_the_task_says_is_believed():
    known = Gaussian(deviation=2.0)
    assert likelihood_of(Task(likelihood=known), nn.Identity(), (LOGITS, LABELS)) is known
    own = Task(lambda outputs, targets: outputs.sum())
    assert likelihood_of(own, nn.Identity(), (LOGITS[:, 0], LABELS[:, 0])) is None


def test_probes_are_the_likelihood_s_from_one_generator():
    batch = (torch.zeros(2, 3), torch.ones(2, 3))
    outputs = torch.arange(6.0).view(2, 3)
    probe = probe_of(Task(), Gaussian(), 2, torch.Generator().manual_seed(1))
    assert probe is not None
    generator = torch.Generator().manual_seed(1)
    expected = [(outputs * torch.randn(2, 3, generator=generator)).sum() for _ in range(2)]
    assert torch.equal(torch.stack(probe(outputs, batch)), torch.stack(expected))
    assert probe_of(Task(), None, 2, generator) is None
    assert probe_of(Task(), Gaussian(), 0, generator) is None
