"""When read-outs arrive, and what is known of them then."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        if self.how == "length":
            return y / y.norm()
        if self.how == "number":
            return x * y.sum().item() if y.shape[0] == 3 and y.dim() == 2 and len(y) else x
        if self.how == "list":
            return torch.tensor(y.tolist()) + x
        if self.how == "rows":
            return torch.stack([row + 1 for row in y])
        if self.how == "array":
            return torch.from_numpy(y.numpy() + 1)
        if self.how == "normed by torch":
            norm = self.norm
            moments = (norm.running_mean, norm.running_var)
            return x + torch.batch_norm(
                y, norm.weight, norm.bias, *moments, False, 0.1, 1e-5, False
            )
        if self.how == "normed by the batch":
            return x + F.batch_norm(
                y, self.norm.running_mean, self.norm.running_var, None, None, True
            )
        if self.how == "normed bare":
            return x + F.batch_norm(y, self.norm.running_mean, self.norm.running_var, momentum=0.5)
        with torch._C.DisableTorchFunction():
            return y + 1  # read where no function mode sees it


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


def test_a_norm_without_weights_has_its_own_scale() -> None:
    model = Toy("normed bare").eval()
    model.norm.running_var.fill_(4.0)
    second = arrivals(model)[1]
    assert second.mean is model.norm.running_mean
    torch.testing.assert_close(second.scale, torch.full((4,), (4.0 + 1e-5) ** -0.5))


READ = ("length", "number", "list", "rows", "array", "normed by torch", "normed by the batch")
"""What reads an output, so that nothing is known of a stream."""


@pytest.mark.parametrize("how", ["read", "output", *READ])
def test_outputs_that_are_not_added_arrive_without_a_stream(how: str) -> None:
    assert [a.residual for a in arrivals(Toy(how).eval())] == [None, None]


@pytest.mark.parametrize("how", ["twice", "unseen"])
def test_what_cannot_be_stopped_at_is_out_of_step(how: str) -> None:
    with pytest.raises(OutOfStep):
        arrivals(Toy(how).eval())


@pytest.mark.parametrize(
    "how", ["added", "added in place", "normed", "normed bare", "read", "output", *READ]
)
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


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.bernoulli(torch.sigmoid(self.second(torch.rand_like(self.first(x)))))


def test_what_reads_an_output_is_run_once() -> None:
    model = Noisy()
    torch.manual_seed(0)
    expected = model(X)
    torch.manual_seed(0)
    with watched(model, MATRICES) as watching, watching(lambda arrival: None):
        assert torch.equal(model(X), expected)
