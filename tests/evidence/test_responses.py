"""Responses of outputs to units against networks in which they are known."""

import math

import pytest
import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.evidence import readouts
from probcomp.evidence.fisher import Categorical
from probcomp.evidence.responses import Responses, linear_responses
from probcomp.structure import silence, trace

EXACT = 1e-10


def divergence(outputs: Tensor, dense: Tensor) -> Tensor:
    return Categorical().divergence(outputs, dense, torch.zeros(len(outputs), dtype=torch.long))


class Net(nn.Module):
    """Outputs are linear in the units of the second layer, and not in those of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.tanh(self.a(x)))))


def fixture():
    torch.manual_seed(0)
    model, x = Net().double().eval(), torch.randn(9, 4, dtype=torch.float64)
    structure = trace(model, (x[:2],))
    reads = [r for r in readouts(model, structure) if r.parameter in ("b.weight", "c.weight")]
    axes = {r.parameter: r.axis for r in reads}
    found = linear_responses(model, reads, [(x[:4],), (x[4:],)], lambda m, b: m(*b))

    def without(keep: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return silence(structure, model, keep)(x)

    return model, x, axes, found, without


def lacking(size: int, *units: int) -> Tensor:
    keep = torch.ones(size, dtype=torch.bool)
    keep[list(units)] = False
    return keep


def test_units_that_outputs_are_linear_in_are_exact_in_any_number() -> None:
    model, x, axes, found, without = fixture()
    torch.testing.assert_close(found.dense, model(x).detach(), atol=EXACT, rtol=0)
    keep = {axes["c.weight"]: lacking(6, 0, 2, 5)}
    real = without(keep)
    torch.testing.assert_close(found.outputs(keep), real, atol=EXACT, rtol=0)
    assert found.loss(keep, divergence) == pytest.approx(float(divergence(real, found.dense)))
    assert found.loss({}, divergence) == 0


def test_measured_units_are_exact_alone_and_the_others_stay_derivatives() -> None:
    _, _, axes, found, without = fixture()
    first = axes["b.weight"]
    costs = [found.loss({first: lacking(5, u)}, divergence) for u in range(5)]
    above = sorted(costs)[2]
    asked: list[int] = []

    def alone(axis: str, unit: int) -> Tensor:
        if axis == first:
            asked.append(unit)
        return without({axis: lacking(found.axes[axis].shape[2], unit)})

    better = found.measured(above, divergence, alone)
    assert asked == [u for u in range(5) if costs[u] > above]
    assert len(asked) == 2
    for unit in range(5):
        keep = {first: lacking(5, unit)}
        exact = torch.allclose(better.outputs(keep), without(keep), atol=EXACT, rtol=0)
        assert exact == (unit in asked)
        assert torch.equal(better.outputs(keep), found.outputs(keep)) == (unit not in asked)


def test_what_does_not_fit_is_refused() -> None:
    model, x, axes, found, _ = fixture()
    with pytest.raises(InputError, match="no responses to 4 units"):
        found.outputs({axes["c.weight"]: lacking(4, 1)})
    with pytest.raises(InputError, match="'nowhere'"):
        found.outputs({"nowhere": lacking(4, 1)})
    with pytest.raises(InputError, match=r"must be booleans, not torch\.int64"):
        found.outputs({axes["c.weight"]: lacking(6, 1).long()})
    with pytest.raises(InputError, match=r"divergence without unit 0 of .* is NaN"):
        found.measured(0.0, lambda a, b: torch.tensor(math.nan), lambda axis, unit: found.dense)
    with pytest.raises(InputError, match="are not finite"):
        found.measured(-1.0, divergence, lambda axis, unit: math.nan * found.dense)
    with pytest.raises(InputError, match="have the shape"):
        found.measured(-1.0, divergence, lambda axis, unit: torch.zeros(2, 3))
    with pytest.raises(InputError, match="no batch"):
        linear_responses(model, [], [], lambda m, b: m(*b))
    with pytest.raises(InputError, match="outputs"):
        linear_responses(model, [], [(x,)], lambda m, b: m(*b)[:, :, None])


def test_a_sure_classifier_pays_in_proportion() -> None:
    """Once the other class has won, each further nat between the outputs costs one nat."""
    dense = torch.tensor([[30.0, 0.0]], dtype=torch.float64)
    response = torch.tensor([[[60.0], [0.0]]], dtype=torch.float64).expand(1, 2, 2)
    found = Responses(dense, {"axis": response})
    one, two = (found.loss({"axis": lacking(2, *gone)}, divergence) for gone in ((0,), (0, 1)))
    assert one == pytest.approx(30.0, rel=1e-6)
    assert two == pytest.approx(90.0, rel=1e-6)
