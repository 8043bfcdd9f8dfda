"""The teacher's share of a loss, against its formula and its limits."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from probcomp.errors import InputError
from probcomp.inference.training.distillation import distilled


def plain(model: nn.Module, batch) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture
def case():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    student = nn.Linear(4, 3)
    return teacher, student, (torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))


def test_the_loss_is_the_formula_with_the_teacher_at_rest(case) -> None:
    teacher, student, batch = case
    found = distilled(plain, teacher, share=0.3, temperature=2.0)(student, batch)
    assert teacher.training  # the user's own network is left alone
    with torch.no_grad():
        p = torch.softmax(teacher.eval()(batch[0]) / 2, 1)
    q = torch.softmax(student(batch[0]) / 2, 1)
    gap = (p * (p / q).log()).sum() / 6
    expected = 0.7 * plain(student, batch) + 0.3 * 4 * gap
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_a_teacher_of_itself_leaves_the_gradient_of_its_share_at_zero(case) -> None:
    _, student, batch = case
    distilled(plain, student, share=1.0)(student, batch).backward()
    assert float(student.weight.grad.abs().max()) < 1e-6
    assert not student._forward_hooks


def test_no_share_is_the_loss_itself(case) -> None:
    assert distilled(plain, case[0], share=0.0) is plain


def test_gradients_stay_of_one_size_over_temperatures(case) -> None:
    """Hinton et al., section 2: T squared makes up for gradients that fall as its inverse."""
    teacher, student, batch = case
    sizes = []
    for temperature in (50.0, 100.0):
        student.zero_grad()
        distilled(plain, teacher, share=1.0, temperature=temperature)(student, batch).backward()
        sizes.append(float(student.weight.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


class Wrapped(nn.Module):
    """Returns logits [samples, positions, classes] as language models do."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.layer = form, nn.Linear(4, 3)

    def forward(self, x: torch.Tensor):
        logits = self.layer(x)[:, None].expand(-1, 2, -1)
        named = SimpleNamespace(logits=logits)
        return {"logits": named, "tuple": (logits, None), "both": (named,)}[self.form]


@pytest.mark.parametrize("form", ["logits", "tuple", "both"])
def test_logits_are_found_in_what_models_return(form: str, case) -> None:
    batch = case[2]

    def loss(model: nn.Module, batch) -> torch.Tensor:
        value = model(batch[0])
        value = value[0] if isinstance(value, tuple) else value
        return getattr(value, "logits", value).square().mean()

    torch.manual_seed(1)
    teacher, student = Wrapped(form), Wrapped(form)
    found = distilled(loss, teacher, share=1.0, temperature=1.0)(student, batch)
    p, q = (torch.log_softmax(m.layer(batch[0]), 1) for m in (teacher, student))
    assert float(found) == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-5)


def test_what_cannot_be_taught_is_refused(case) -> None:
    teacher, student, batch = case
    for share, temperature in ((-0.1, 1.0), (1.1, 1.0), (0.5, 0.0), (float("nan"), 1.0)):
        with pytest.raises(InputError, match="expected a share"):
            distilled(plain, teacher, share=share, temperature=temperature)
    twice = lambda m, b: plain(m, b) + plain(m, b)  # noqa: E731
    with pytest.raises(InputError, match="called it 2 times"):
        distilled(twice, teacher, share=0.5)(student, batch)
    with pytest.raises(InputError, match="targets are real numbers"):
        distilled(plain, teacher, share=0.5)(student, (batch[0], batch[0]))
    single = nn.Linear(4, 1)
    loss = lambda m, b: m(b[0]).square().mean()  # noqa: E731
    with pytest.raises(InputError, match=r"two classes or more; the model returned \(6, 1\)"):
        distilled(loss, single, share=0.5)(single, batch)
