"""Slopes of units against derivatives of models whose units have a strength."""

import pytest
import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.evidence import readouts
from probcomp.evidence.fisher import Gaussian
from probcomp.evidence.slopes import Slopes, unit_slopes
from probcomp.structure import trace

EXACT = 1e-10


class Net(nn.Module):
    """Two hidden layers; each token is averaged over the text in between."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(
        self, x: Tensor, first: Tensor | float = 1.0, second: Tensor | float = 1.0
    ) -> Tensor:
        hidden = torch.tanh(self.a(x)) * first
        return self.c(torch.tanh(self.b(hidden).mean(1)) * second)


def fixture() -> tuple[Net, Tensor, list]:
    torch.manual_seed(0)
    model, x = Net().double().eval(), torch.randn(6, 7, 4, dtype=torch.float64)
    reads = readouts(model, trace(model, (x[:2],)))
    return model, x, [r for r in reads if r.parameter in ("b.weight", "c.weight")]


def slopes(model: nn.Module, x: Tensor, reads: list, probes: int) -> Slopes:
    return unit_slopes(
        model,
        reads,
        [(x[:4],), (x[4:],)],
        lambda m, b: m(*b),
        lambda outputs, batch: [outputs[:, k % 3].sum() * (1 + k // 3) for k in range(probes)],
        lambda batch: len(batch[0]),
    )


def test_they_are_derivatives_along_the_strength_of_each_unit() -> None:
    model, x, reads = fixture()
    found = slopes(model, x, reads, 1)
    ones = [torch.ones(n, dtype=torch.float64) for n in (5, 6)]
    for read, place in zip(reads, (0, 1)):

        def output(strength: Tensor, place: int = place) -> Tensor:
            given = list(ones)
            given[place] = strength
            return model(x, *given)[:, 0]

        wanted = torch.autograd.functional.jacobian(output, ones[place])
        torch.testing.assert_close(found.axes[read.axis], wanted, atol=EXACT, rtol=0)


def test_the_loss_of_a_small_step_is_the_gauss_newton_form_across_layers() -> None:
    model, x, reads = fixture()
    found = slopes(model, x, reads, 3)  # with all outputs the Gaussian's Fisher matrix is exact
    gone = [torch.tensor([1, 3]), torch.tensor([0, 4])]
    keep = {}
    for read, units in zip(reads, gone):
        keep[read.axis] = torch.ones(found.axes[read.axis].shape[1], dtype=torch.bool)
        keep[read.axis][units] = False
    step = 1e-4
    strengths = [torch.ones(n, dtype=torch.float64) for n in (5, 6)]
    for strength, units in zip(strengths, gone):
        strength[units] -= step
    dense = model(x).detach()
    loss = float(Gaussian().divergence(model(x, *strengths), dense, dense)) / step**2
    # units count samples and probes; all three outputs together are one sample's Fisher matrix
    assert 3 * found.loss(keep) == pytest.approx(loss, rel=1e-2)
    assert found.loss({}) == 0


def test_padding_is_left_out() -> None:
    model, x, reads = fixture()
    mask = torch.ones(6, 7, dtype=torch.long)
    mask[:, 5:] = 0
    part = reads[:1]

    def run(m: nn.Module, batch: dict) -> Tensor:
        return m.b(torch.tanh(m.a(batch["x"])))  # every token counts for itself

    found = [
        unit_slopes(model, part, [batch], run, lambda o, b: [o[:, :5].sum()], lambda b: 6).axes[
            part[0].axis
        ]
        for batch in ({"x": x, "attention_mask": mask}, {"x": x})
    ]
    torch.testing.assert_close(found[0], found[1], atol=EXACT, rtol=0)
    poisoned = x.clone()
    poisoned[:, 5:] = 100.0
    again = unit_slopes(
        model,
        part,
        [{"x": poisoned, "attention_mask": mask}],
        run,
        lambda o, b: [o.sum()],
        lambda b: 6,
    ).axes[part[0].axis]
    torch.testing.assert_close(again, found[0], atol=EXACT, rtol=0)


def test_what_cannot_be_read_is_refused() -> None:
    model, x, reads = fixture()
    with pytest.raises(InputError, match="no batch"):
        unit_slopes(model, reads, [], lambda m, b: m(*b), lambda o, b: [o.sum()], len)
    with pytest.raises(InputError, match="no module"):
        unit_slopes(model, reads, [(x,)], lambda m, b: m.a(*b), lambda o, b: [o.sum()], len)
    found = slopes(model, x, reads, 1)
    with pytest.raises(InputError, match="no slopes"):
        found.loss({"elsewhere": torch.ones(5, dtype=torch.bool)})
    with pytest.raises(InputError, match="no slopes"):
        found.loss({reads[0].axis: torch.ones(4, dtype=torch.bool)})
