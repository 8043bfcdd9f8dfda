"""The common frame of group methods, with a gate whose answer is known."""

import torch
from torch import Tensor, nn

from probcomp.inference.baselines.engine import Schedule
from probcomp.inference.baselines.gating import Gate
from probcomp.inference.baselines.groups import fit_gates
from probcomp.inference.baselines.places import Place
from tests.inference.baselines.networks import SHORT, setting


class Fixed(Gate):
    """Scales that do not move: one, but for the second unit of each place."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        value = torch.ones(place.size)
        value[1] = 0
        self.register_buffer("value", value)
        self.idle = nn.Parameter(torch.zeros(()))

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        return (self.value + 0 * self.idle).expand(rows, -1)

    def mean(self) -> Tensor:
        return self.value

    def divergence(self) -> Tensor:
        return 0 * self.idle

    def score(self) -> Tensor:
        return self.value


def test_decision_folding_and_record() -> None:
    schedule = Schedule(**(SHORT | {"epochs": 2}))
    found = fit_gates(
        setting(), schedule, "fixed", Fixed, about=lambda gates: {"places": len(gates)}
    )
    assert found.keep["hidden"].tolist() == [i != 1 for i in range(12)]
    assert found.masks["0.weight"].any(0).tolist() == [i != 1 for i in range(4)]
    assert not found.model[2].weight[:, 1].any()
    assert found.meta["method"] == "fixed"
    assert found.meta["places"] == 2
    assert found.meta["thresholds"] == {"0.inputs": 0.0, "hidden": 0.0}


def test_decay_shrinks_the_weights() -> None:
    schedule = Schedule(**(SHORT | {"epochs": 5}))
    norms = []
    for decay in (0.0, 0.1):
        found = fit_gates(setting(), schedule, "fixed", Fixed, decay=decay)
        norms.append(float(found.model[0].weight.detach().norm()))
    assert norms[1] < norms[0]
