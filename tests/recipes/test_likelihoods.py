"""The likelihood behind a loss: found where it is one that is known, and never guessed."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probcomp.evidence.fisher import IGNORED, Categorical, Gaussian
from probcomp.recipes.likelihoods import likelihood_of, probe_of, recognised, with_targets
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


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "expected"),
    [
        (F.cross_entropy, LOGITS[:, 0], LABELS[:, 0], Categorical()),
        (flat, LOGITS, LABELS, Categorical(unit="token")),
        (lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1), LOGITS[:, 0], LABELS[:, 0], None),
        (lambda z, y: F.cross_entropy(z, y, reduction="none"), LOGITS[:, 0], LABELS[:, 0], None),
        (F.mse_loss, LOGITS[:, 0], LOGITS[:, 1], Gaussian(deviation=math.sqrt(1.5))),
        (
            lambda z, y: F.mse_loss(z[:, 0], y), LOGITS[:, 0, :1], LOGITS[:, 1, 0],
            Gaussian(deviation=math.sqrt(0.5)),
        ),
        (F.l1_loss, LOGITS[:, 0], LOGITS[:, 1], None),
        (F.mse_loss, LOGITS[:, 0, 0], LOGITS[:, 1, 0], None),  # no dimension of outputs
    ],
    ids=["classes", "tokens", "smoothed", "not reduced", "mean square", "one output", "absolute",
         "flat"],
)  # fmt: skip
@pytest.mark.parametrize("named", [False, True])
def test_a_loss_of_the_user_s_is_recognised_by_its_value(named, loss, outputs, targets, expected):
    if named:
        task = Task(lambda found, batch: loss(found.logits, batch["labels"]))
        batch = {"logits": outputs, "labels": targets}
        assert likelihood_of(task, Own(lambda z, y: None), batch) == expected
    else:
        assert likelihood_of(Task(loss), nn.Identity(), (outputs, targets)) == expected


def test_a_model_s_own_squared_error_is_recognised():
    batch = {"logits": LOGITS[:, 0, :1], "labels": LOGITS[:, 1, 0]}
    found = likelihood_of(Task(), Own(lambda z, y: F.mse_loss(z.squeeze(), y)), batch)
    assert found == Gaussian(deviation=math.sqrt(0.5))
    task = Task(likelihood=found)
    expected = F.mse_loss(batch["logits"][:, 0], batch["labels"])
    torch.testing.assert_close(task.loss(Own(lambda z, y: None), batch), expected)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("upcast", [True, False])
def test_half_precision_is_recognised_as_single_is(seed, upcast):
    """Models score their logits in single precision, or in their own."""
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(2, 16, 50, generator=generator)).bfloat16()
    labels = torch.randint(50, (2, 16), generator=generator)

    def own(z, y):
        return flat(z.float() if upcast else z, y)

    found = likelihood_of(Task(), Own(own), {"logits": logits, "labels": labels})
    assert found == Categorical(unit="token")
    assert likelihood_of(Task(), nn.Identity(), (logits[:, 0], labels[:, 0])) == Categorical()


def test_texts_without_a_label_that_counts_tell_nothing_and_are_not_asked():
    """The shortest texts are of one token, and one in two has no label at all."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.arange(32) % 16 + 1
    mask = (torch.arange(16) < lengths[:, None]).long()
    ids = torch.randint(3, (32, 16), generator=generator)
    labels = ids.masked_fill(mask == 0, IGNORED)
    labels[1::2] = IGNORED

    class Table(nn.Module):
        def forward(self, input_ids, attention_mask, labels):
            logits = torch.stack([torch.sin(input_ids * k + k) for k in (1.0, 2.0, 3.0)], -1)
            return SimpleNamespace(logits=logits, loss=flat(logits[:, :-1], labels[:, 1:]))

    samples = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    assert likelihood_of(Task(), Table(), {n: t[[0, 16]] for n, t in samples.items()}) is None
    assert recognised(Task(), Table(), samples) == Categorical(shift=True, unit="token")
    kept = with_targets(samples)
    assert kept["attention_mask"].sum(1).tolist() == [3, 5, 7, 9, 11, 13, 15] * 2
    whole = (ids, ids)
    assert with_targets(whole) is whole
