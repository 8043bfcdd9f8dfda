import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from probcomp import compress
from probcomp.inference.training import TurboConfig
from probcomp.inference.training.evidence import Scale
from probcomp.recipes.task import Task
from probcomp.recipes.turbo_checking import EACH, EDGES
from probcomp.recipes.turbo_reading import Reader
from probcomp.recipes.turbo_vbi import CHECKED, HONESTY

CALIBRATION_ERROR = 0.05  # the target; 0.02 measured, and 0.09 of the evidence of the last round
DENSITY, WIDTH, SAMPLES = 0.25, 0.15, 1000
INPUTS, OUTPUTS = 40, 20
SCALE = {"weight": Scale(WIDTH**2, 1e-3)}


def teacher(seed: int):
    """A sparse linear map with noise of deviation 1: its weights lie from 0 to 10 standard errors.

    Its support is the student's: a linear map has no hidden units to permute.
    """
    generator = torch.Generator().manual_seed(seed)
    support = torch.rand(OUTPUTS, INPUTS, generator=generator) < DENSITY
    weight = support * WIDTH * torch.randn(OUTPUTS, INPUTS, generator=generator)
    x = torch.randn(SAMPLES, INPUTS, generator=generator)
    y = x @ weight.T + torch.randn(SAMPLES, OUTPUTS, generator=generator)
    student = nn.Linear(INPUTS, OUTPUTS, bias=False)
    with torch.no_grad():
        student.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    return support, x, y, student


def calibration_error(probability: torch.Tensor, support: torch.Tensor) -> float:
    """Mean gap between stated and true inclusion over ten bins, by their number of weights."""
    place = (10 * probability).long().clamp_max(9)
    total = 0.0
    for k in place.unique():
        here = place == k
        gap = probability[here].mean() - support[here].float().mean()
        total += float(gap.abs() * here.sum()) / probability.numel()
    return total


@pytest.mark.parametrize("seed", [0, 1])
def test_probabilities_of_a_known_support_are_calibrated(seed: int) -> None:
    support, x, y, student = teacher(seed)
    config = TurboConfig(
        rounds=20, steps=32, refit_steps=0, permute=False, coupling=0.0, field=-1.1
    )
    result = compress(
        student, (x, y), budget=None, config=config, seed=seed, test=(x, y), progress=False
    )
    probability = result.posterior.weights["weight"].probability
    assert calibration_error(probability, support) <= CALIBRATION_ERROR
    assert float(probability.sum()) == pytest.approx(float(support.sum()), rel=0.15)
    meta = result.posterior.meta
    assert meta["conditional"]
    assert not meta["calibrated"]  # true here, and not known of other networks
    assert meta["evidence_slope_of_bins"] == pytest.approx([1] * 4, abs=0.2)
    assert meta["temperature_of_removals"] == pytest.approx(1, abs=0.25)  # a quadratic loss
    assert not result.report.calibrated
    assert sum(w.startswith(CHECKED) for w in result.report.warnings) == 1
    assert not any(w.startswith(HONESTY) for w in result.report.warnings)


def test_the_likelihood_of_a_linear_regression_is_its_own() -> None:
    _, x, y, student = teacher(2)
    before = student.weight.detach().clone()
    reading = Reader(Task(), (x, y))(student.eval(), SCALE)
    found = reading.likelihoods["weight"]
    heat = reading.meta["temperature_of_removals"]
    squares = x.square().sum(0).expand(OUTPUTS, INPUTS)
    # Drawn targets and products of means stand for each sample's own: within a tenth.
    torch.testing.assert_close(heat * found.curvature, squares, rtol=0.15, atol=0)
    residual = y - x @ before.T
    linear = heat * found.curvature * before + residual.T @ x
    torch.testing.assert_close(heat * found.linear, linear, rtol=1e-3, atol=0.1)
    assert torch.equal(student.weight, before)
    assert student.weight.grad is None


def test_layers_without_a_known_curvature_are_not_read() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.LazyLinear(2)).eval()
    x = torch.randn(6, 4, 5, 5)
    model(x)
    assert (
        Reader(Task(), (x, torch.zeros(6, 2)))(
            model, dict.fromkeys(("0.weight", "2.weight"), SCALE["weight"])
        )
        is None
    )


def test_a_weight_comes_back_where_the_loss_raises() -> None:
    _, x, y, student = teacher(3)
    before = student.weight.detach().clone()
    removed = []

    def failing(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if not torch.equal(student.weight, before):
            removed.append(int((student.weight == 0).sum()))
            raise FloatingPointError
        return 0.5 * (outputs - targets).square().sum(1).mean()

    with pytest.raises(FloatingPointError):
        Reader(Task(criterion=failing), (x, y))(student.eval(), SCALE)
    assert removed == [1]
    assert torch.equal(student.weight, before)


def test_a_likelihood_that_is_not_finite_is_not_read() -> None:
    _, x, y, student = teacher(4)

    def broken(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return math.nan * (outputs - targets).square().mean()

    assert Reader(Task(criterion=broken), (x, y))(student.eval(), SCALE) is None


def test_the_reading_says_where_it_is() -> None:
    _, x, y, student = teacher(5)
    said: list[str] = []
    Reader(Task(), (x, y), on_step=said.append)(student.eval(), SCALE)
    bins = [f"taking away weights of {low:g} to {high:g} nats" for low, high in pairwise(EDGES)]
    assert said == [
        *bins,
        "reading the likelihood",
        *bins,
    ]


def test_evidence_is_checked_no_farther_out_than_the_slab_reaches() -> None:
    """An input that is all but constant: the optimum of its weights lies far out, and loss there
    is far from quadratic. The slab, and with it the evidence, sees nothing of that."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 8, generator=generator)
    x[:, 4:] *= 1e-3
    y = (x[:, 0] + 0.5 * torch.randn(600, generator=generator) > 0).long()
    student = nn.Linear(8, 2, bias=False)
    with torch.no_grad():
        student.weight.zero_()
    tried: list[float] = []

    def watched(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        tried.append(float(student.weight.detach().abs().max()))
        return nn.functional.cross_entropy(outputs, targets)

    Reader(Task(criterion=watched), (x, y))(student.eval(), {"weight": Scale(1.0, 1e-3)})
    assert 0 < max(tried) < 4  # the slab's deviation is 1; the optimum lies beyond 100


def small_convolution() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 2, 5, 5, generator=generator)
    y = (x.mean((1, 2, 3)) > 0).long()
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 2, bias=False),
    )
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), x, y


def read_convolution(model: nn.Module, x: torch.Tensor, y: torch.Tensor):
    scales = {"0.weight": Scale(1.0, 1e-3), "4.weight": Scale(1.0, 1e-3)}
    reading = Reader(Task(criterion=nn.functional.cross_entropy), (x, y))(model, scales)
    assert reading.meta["measured"] > 0
    return reading.meta, {n: reading.likelihoods[n].evidence(s) for n, s in scales.items()}


def test_weights_whose_memory_lies_in_another_order_are_read_alike() -> None:
    model, x, y = small_convolution()
    meta, evidence = read_convolution(model, x, y)
    other = model.to(memory_format=torch.channels_last)
    assert not other[0].weight.is_contiguous()
    before = other[0].weight.detach().clone()
    turned, same = read_convolution(other, x, y)
    assert torch.equal(other[0].weight, before)
    assert turned["measured"] == meta["measured"]
    for name, values in evidence.items():
        torch.testing.assert_close(same[name], values, rtol=1e-2, atol=1e-2)  # float32 sums


def test_one_state_is_read_alike_to_the_last_bit() -> None:
    """Whatever was drawn in between, and however many threads the caller has."""
    state = small_convolution()
    threads = torch.get_num_threads()
    meta, evidence = read_convolution(*state)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.randn(7)
            again, same = read_convolution(*state)
            assert torch.get_num_threads() == count
            assert again == meta
            assert all(torch.equal(same[name], values) for name, values in evidence.items())
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("most", "expected"), [(1e12, 1), (1.0, 3)])
def test_only_a_costly_reading_keeps_its_threads(
    monkeypatch: pytest.MonkeyPatch, most: float, expected: int
) -> None:
    _, x, y, student = teacher(6)
    seen: list[int] = []

    class Stop(Exception):
        pass

    def watched(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        if len(seen) == 2:  # the first counts the operations
            raise Stop
        return 0.5 * (outputs - targets).square().sum(1).mean()

    threads = torch.get_num_threads()
    monkeypatch.setattr("probcomp.recipes.turbo_reading.MOST_OPERATIONS", most)
    try:
        torch.set_num_threads(3)
        with pytest.raises(Stop):
            Reader(Task(criterion=watched), (x, y))(student.eval(), SCALE)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert seen[1] == expected


def test_a_weight_more_leaves_the_others_that_are_tried() -> None:
    """A weight that rounding moves over the edge of a range is not to change who else is tried."""
    _, x, y, student = teacher(7)
    reader, task = Reader(Task(), (x, y)), Task()
    batches = [(x, y)]
    promised = torch.full((OUTPUTS, INPUTS), 1.0) + 1e-3 * torch.rand(OUTPUTS, INPUTS)
    first = reader._try(student, task.loss, batches, len(x), {"weight": promised})
    moved = promised.clone()
    moved[-1, -1] = 5.0
    other = reader._try(student, task.loss, batches, len(x), {"weight": moved})
    assert len(first) == EACH
    assert len(set(first) & set(other)) >= EACH - 1


def test_a_text_is_the_evidence_of_all_its_tokens(monkeypatch) -> None:
    """Three tokens in a sample, or a sample each: the same nats, slopes and curvatures."""
    monkeypatch.setattr("probcomp.recipes.turbo_reading.fisher_targets", lambda task: None)
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    x, y = torch.randn(40, 3, 6), torch.randint(4, (40, 3))
    scale = {"weight": Scale(0.1, 1e-3)}
    found = [
        Reader(Task(), data)(model, scale).likelihoods["weight"]
        for data in ((x, y), (x.flatten(0, 1), y.flatten()))
    ]
    for name in ("curvature", "linear"):
        one, two = (getattr(likelihood, name) for likelihood in found)
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


def test_a_layer_that_the_loss_never_reaches_is_open() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(6, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    torch.manual_seed(0)
    data = torch.randn(40, 6), torch.randint(4, (40,))
    scales = {f"{n}.weight": Scale(0.1, 1e-3) for n in ("used", "spare")}
    found = Reader(Task(), data)(Spare(), scales).likelihoods
    assert found["spare.weight"].evidence(scales["spare.weight"]).abs().max() < 1e-3
    assert found["used.weight"].evidence(scales["used.weight"]).abs().max() > 0.1
