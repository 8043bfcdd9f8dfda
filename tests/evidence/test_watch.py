"""When read-outs arrive, and what is known of them then."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probcomp.evidence import Matrix
from probcomp.evidence.watch import Arrival, OutOfStep, watched

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Toy(nn.Module):
    """Two linear layers; ``how`` says what happens to the output of the second."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.second, self.how = nn.Linear(4, 4), nn.Linear(4, 4), how
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.first(x))
        y = self.second(x)
        if self.how == "added":
            return self.drop(y) + x
        if self.how == "added in place":
            y += x
            return y
        if self.how == "normed":
            return x + self.norm(y)
        if self.how == "read":
            return torch.cat([y, x], 1)
        if self.how == "output":
            return {"logits": y}
        if self.how == "twice":
            return self.second(y)
        return torch.from_numpy(y.numpy() + 1)  # read where no function mode sees it


MATRICES = {f"{n}.weight": Matrix(n, "linear") for n in ("first", "second")}


def arrivals(model: nn.Module) -> list[Arrival]:
    found: list[Arrival] = []
    with watched(model, MATRICES) as watching, torch.no_grad():
        with watching(found.append) as watch:
            outputs = model(X)
        watch.ended(outputs)
    return found


@pytest.mark.parametrize("how", ["added", "added in place", "normed"])
def test_what_an_output_is_added_to_is_found(how: str) -> None:
    model = Toy(how).eval()
    first, second = arrivals(model)
    assert (first.name, second.name) == ("first.weight", "second.weight")
    assert first.residual is None
    assert torch.equal(second.residual, torch.relu(model.first(X)))
    if how == "normed":
        norm = model.norm
        expected = norm.weight / (norm.running_var + norm.eps).sqrt()
        torch.testing.assert_close(second.scale, expected)
        assert second.mean is norm.running_mean


@pytest.mark.parametrize("how", ["read", "output"])
def test_outputs_that_are_not_added_arrive_without_a_stream(how: str) -> None:
    assert [a.residual for a in arrivals(Toy(how).eval())] == [None, None]


@pytest.mark.parametrize("how", ["twice", "unseen"])
def test_what_cannot_be_stopped_at_is_out_of_step(how: str) -> None:
    with pytest.raises(OutOfStep):
        arrivals(Toy(how).eval())


@pytest.mark.parametrize("how", ["added", "added in place", "normed", "read", "output"])
def test_weights_changed_at_arrival_are_those_the_pass_goes_on_with(how: str) -> None:
    model = Toy(how).eval()

    def change(arrival: Arrival) -> None:
        arrival.module.weight.mul_(-0.5)
        arrival.again()

    with watched(model, MATRICES) as watching, torch.no_grad():
        with watching(change) as watch:
            found = model(X)
        watch.ended(found)
        expected = model(X)
    found, expected = (o["logits"] if isinstance(o, dict) else o for o in (found, expected))
    assert torch.equal(found, expected)
