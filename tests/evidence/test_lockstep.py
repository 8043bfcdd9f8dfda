"""One pass in step against a pass for each read-out, and what stops it."""

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probcomp.evidence import Matrix
from probcomp.evidence.collect import evaluating
from probcomp.evidence.lockstep import Targets, Walker, walk
from probcomp.evidence.prefix import prefix_moments
from probcomp.evidence.watch import OutOfStep, call_order, watched
from probcomp.recovery.ridge import Moments, fit
from tests.evidence.test_prefix import Residual, run

EXACT = 1e-9  # float64 sums in another order


class Blocks(Residual):
    """Residual blocks, and a convolution-like end that reads them all."""

    def __init__(self) -> None:
        super().__init__()
        self.double().eval()


MATRICES = {f"{n}.weight": Matrix(n, "linear") for n in ("down1", "down2", "head")}
KEPT = {
    "down1.weight": torch.tensor([True, True, False, True, False, True]),
    "down2.weight": torch.tensor([True, False, True, True, True]),
    "head.weight": torch.ones(4, dtype=torch.bool),
}


def setting() -> tuple[nn.Module, nn.Module, list[Any]]:
    torch.manual_seed(0)
    dense = Blocks()
    pruned = copy.deepcopy(dense)
    with torch.no_grad():
        for name, kept in KEPT.items():
            pruned.get_parameter(name)[:, ~kept] = 0
    x = torch.randn(11, 3, 4, dtype=torch.float64)
    mask = torch.ones(11, 3, dtype=torch.long)
    mask[::2, 2] = 0
    batches = [{"x": x[i : i + 4], "attention_mask": mask[i : i + 4]} for i in range(0, 11, 4)]
    return dense, pruned, batches


def targets_of(dense: nn.Module, batches: list[Any], residual: bool) -> Targets:
    targets = Targets(MATRICES, residual=residual)
    with (
        watched(dense, MATRICES, residual=residual) as watching,
        evaluating(dense),
        torch.no_grad(),
    ):
        for batch in batches:
            targets.recording(watching, run)(dense, batch)
    return targets


def settler(model: nn.Module, found: dict[str, Any]) -> Any:
    def settle(name: str, moments: tuple[Moments, Moments]) -> None:
        found[name] = moments
        result = fit(moments, bias=True)
        module = model.get_submodule(MATRICES[name].module)
        with torch.no_grad():
            module.weight[:, KEPT[name]] += result.change
            module.bias += result.bias

    return settle


@pytest.mark.parametrize(("residual", "skip"), [(True, 0), (False, 0), (True, 2)])
def test_one_pass_gives_what_a_pass_for_each_read_out_gives(residual: bool, skip: int) -> None:
    dense, pruned, batches = setting()
    other, in_step, one_by_one = copy.deepcopy(pruned), {}, {}
    targets = targets_of(dense, batches, residual)
    walk(pruned, targets, KEPT, run, settler(pruned, in_step), skip=skip)
    settle = settler(other, one_by_one)
    for name in call_order(dense, MATRICES, batches[0], run):
        moments = prefix_moments(
            dense,
            other,
            MATRICES[name],
            KEPT[name],
            batches,
            run,
            residual=residual,
            skip=skip,
        )
        settle(name, moments)
    assert list(in_step) == list(one_by_one)
    for name, folds in in_step.items():
        for mine, expected in zip(folds, one_by_one[name], strict=True):
            for part in ("gram", "cross", "inputs", "targets", "square"):
                torch.testing.assert_close(
                    getattr(mine, part), getattr(expected, part), atol=EXACT, rtol=0
                )
    for name, value in pruned.named_parameters():
        torch.testing.assert_close(value, other.get_parameter(name), atol=EXACT, rtol=0)


class Fork(nn.Module):
    """Goes one way or the other, by its input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        order = (self.a, self.b) if float(x.sum()) > 0 else (self.b, self.a)
        for layer in order:
            x = torch.relu(layer(x))
        return x


def test_batches_that_go_different_ways_are_told() -> None:
    model = Fork()
    matrices = {f"{n}.weight": Matrix(n, "linear") for n in "ab"}
    targets = Targets(matrices)
    batches = [(torch.ones(2, 4),), (-torch.ones(2, 4),)]
    with watched(model, matrices) as watching, torch.no_grad():
        for batch in batches:
            targets.recording(watching, run)(model, batch)
    kept = dict.fromkeys(matrices, torch.ones(4, dtype=torch.bool))
    before = threading.active_count()
    with pytest.raises(OutOfStep):
        walk(model, targets, kept, run, lambda name, moments: None)
    assert threading.active_count() == before  # no pass is left waiting
    assert "forward" not in vars(model.a)


def test_an_error_of_a_pass_is_raised_where_it_is_awaited() -> None:
    def work(walker: Walker) -> None:
        raise ValueError("in the pass")

    with pytest.raises(ValueError, match="in the pass"):
        Walker(work).resume()


def test_the_grad_mode_is_that_of_the_caller() -> None:
    seen: list[bool] = []

    def work(walker: Walker) -> None:
        seen.append(torch.is_grad_enabled())

    with torch.no_grad():
        walker = Walker(work)
    assert walker.resume() is None
    assert seen == [False]


def modes() -> dict[str, Any]:
    return {
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_autocast_dtype("cpu"),
        "inference": torch.is_inference_mode_enabled(),
        "device": torch.get_default_device(),
    }


@pytest.mark.parametrize(
    "mode",
    [
        lambda: torch.autocast("cpu", torch.float16),
        torch.inference_mode,
        lambda: torch.device("meta"),
        torch.no_grad,
    ],
    ids=["autocast", "inference", "device", "none"],
)
def test_the_modes_are_those_of_the_caller(mode: Any) -> None:
    seen: list[dict[str, Any]] = []
    with mode():
        walker, expected = Walker(lambda walker: seen.append(modes())), modes()
        assert walker.resume() is None
    assert seen == [expected]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_stream_is_that_of_the_caller() -> None:
    seen: list[Any] = []
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        walker = Walker(lambda walker: seen.append(torch.cuda.current_stream()))
    assert walker.resume() is None
    assert seen == [stream]
