"""Multiplications of the models of a job, and the words on what is not counted."""

import torch
from torch import Tensor, nn

import probcomp
from probcomp.recipes.counting import MORE, macs_notes, macs_on
from probcomp.recipes.task import Task
from tests.allocation.test_counts import Encoder


class Routed(nn.Module):
    """Two experts in a list; the first samples all go to the first."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        out = x.new_zeros(len(x), 3)
        for number, expert in enumerate(self.experts):
            rows = x[:, 0] == number
            if bool(rows.any()):
                out[rows] = expert(x[rows])
        return out


def test_more_samples_are_taken_where_an_expert_gets_none_of_the_first() -> None:
    x = torch.randn(200, 4)
    x[:, 0] = (torch.arange(200) >= 48).float()
    y = torch.zeros(200, dtype=torch.long)
    model = Routed().eval()
    found = macs_on(model, Task(), (x, y))
    assert found.uses == {"experts.0.weight": 48 / MORE, "experts.1.weight": 16 / MORE}
    assert found.of(model) == 12
    assert found.idle == ()
    never = macs_on(model, Task(), (x[:40], y[:40]))
    assert never.idle == ("experts.1.weight",)
    assert "reaches experts.1.weight" in macs_notes(never, never, 12, 12)[0]


def test_what_is_not_counted_is_said() -> None:
    class Elementwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 6))

        def forward(self, x: Tensor) -> Tensor:
            return (x[:, None] * self.weight).sum(-1)

    found = macs_on(Elementwise(), Task(), (torch.ones(9, 6), torch.zeros(9, dtype=torch.long)))
    assert "weight (read by mul) are not counted" in macs_notes(found, found, 0, 0)[0]


def test_a_report_counts_attention_projections_and_speaks_of_attention_itself() -> None:
    torch.manual_seed(0)
    model = Encoder().eval()
    x = torch.randn(80, 12, 16)
    with torch.no_grad():
        y = model(x).argmax(-1)
    found = probcomp.compress(
        model, (x, y), budget="macs=0.8", method="magnitude-units", test=(x[:16], y[:16]),
        kinds=("neuron",), progress=False,
    )  # fmt: skip
    report = found.report
    layer = 12 * (4 * 16 * 16 + 2 * 16 * 32)
    assert report.dense.macs == 2 * layer + 16 * 3
    assert report.compressed.macs is not None
    line = report.budget[0]
    assert line.dense == report.dense.macs
    assert line.kept == report.compressed.macs
    assert 0.7 < line.achieved <= 0.8
    attention = [note for note in report.warnings if "attention" in note]
    assert len(attention) == 1
    assert f"{2 * 2 * 12 * 12 * 16:,}" in attention[0]
