import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from probcomp import compress
from probcomp.inference.training import TurboConfig
from probcomp.inference.training.evidence import Scale
from probcomp.recipes.task import Task
from probcomp.recipes.turbo_reading import EACH, EDGES, Reader, agrees, check, temper
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
    assert meta["calibrated"]
    assert meta["evidence_slope_of_bins"] == pytest.approx([1] * 4, abs=0.2)
    assert meta["temperature_of_removals"] == pytest.approx(1, abs=0.25)  # a quadratic loss
    assert result.report.calibrated
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


def test_a_temperature_comes_from_one_half_and_is_checked_on_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    promised = (10 * torch.rand(40, generator=generator) + 0.1).tolist()
    assert temper([(p, p / 4) for p in promised]) == pytest.approx((4.0, 1.0))
    mixed = [(p, p / (4 if k % 2 == 0 else 2)) for k, p in enumerate(promised)]
    assert temper(mixed) == pytest.approx((4.0, 2.0))
    assert temper([(p, -p) for p in promised]) == (1.0, None)
    assert temper([(1.0, 1.0)] * 4) == (1.0, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_a_removal_that_is_not_finite_leaves_the_temperature_at_one(bad: float, place: int) -> None:
    pairs = [(1.0, 0.5)] * 40
    pairs[place] = (1.0, bad)
    assert temper(pairs) == (1.0, None)
    assert check([(1.0, bad)] * 40) == [None] * (len(EDGES) - 1)


def removals(ratios: list[float]) -> list[tuple[float, float]]:
    """As many removals as are made, each with the ratio of its bin."""
    middles = [math.sqrt(low * high) for low, high in pairwise(EDGES)]
    return [(m, r * m) for m, r in zip(middles, ratios, strict=True) for _ in range(EACH)]


def test_every_range_of_promised_losses_has_to_agree() -> None:
    bins = check(removals([1.1, 0.9, 1.0, 1.0]))
    assert bins == pytest.approx([1.1, 0.9, 1.0, 1.0])
    assert agrees(1.0, bins)
    # One nat decides, but weighs next to nothing in the slope over all.
    bad = removals([1.0, 3.0, 1.0, 1.0])
    temperature, slope = temper(bad)
    assert slope == pytest.approx(1)
    bins = check([(p / temperature, m) for p, m in bad])
    assert bins == pytest.approx([1, 3, 1, 1], rel=0.02)
    assert not agrees(slope, bins)


def test_a_range_without_weights_is_not_checked() -> None:
    pairs = removals([1.0] * 4)[EACH:]
    bins = check(pairs)
    assert bins[0] is None
    assert bins[1:] == pytest.approx([1.0] * 3)
    assert not agrees(1.0, bins)
    assert not agrees(None, [1.0] * 4)


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
