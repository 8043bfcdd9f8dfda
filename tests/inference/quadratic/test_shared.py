"""Single weights against enumeration of each row, and against Gibbs where rows are coupled."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch

from probcomp.errors import InputError
from probcomp.evaluation.regularity import measure_regularity
from probcomp.inference.learning import learn_lattice
from probcomp.inference.quadratic import Quadratic, ep_shared, gibbs, refit
from probcomp.priors import Blocks, Chain, GatedChain, Independent, Lattice, NofM
from probcomp.testing.quadratic import enumerate_weights, weight_teacher
from tests.inference.test_regression import CHAIN, SLAB, SPIKE, exact, problem

ERROR = 0.05  # largest of 216 probabilities, 24 rows of 9; measured 0.02


def ep(teacher, **settings):
    settings = {"learn": False, "iterations": 200, "tolerance": 1e-7} | settings
    return ep_shared(teacher.quadratic, slab=teacher.slab, spike=teacher.spike, **settings)


@pytest.mark.parametrize("tokens", [80, 800, 5000])
@pytest.mark.parametrize("correlation", [0.0, 1.0, 2.0])
def test_24_rows_of_9_against_enumeration(correlation: float, tokens: int) -> None:
    teacher = weight_teacher(correlation=correlation, tokens=tokens, seed=1)
    result = ep(teacher)
    assert result.converged
    assert (result.probability - enumerate_weights(teacher)).abs().max() < ERROR


@pytest.mark.parametrize(
    "prior", [Independent(0.2), Chain(0.2, 0.4), GatedChain(0.6, Chain(0.3, 0.3))], ids=repr
)
def test_priors_over_rows(prior) -> None:
    teacher = weight_teacher(prior=prior, tokens=200, correlation=0.5, seed=2)
    error = (ep(teacher, prior=prior).probability - enumerate_weights(teacher, prior=prior)).abs()
    # Chains and gates add loops of their own: measured 0.05 at worst, 0.003 on average.
    assert error.max() < 2 * ERROR
    assert error.mean() < 0.01


def test_exactly_two_of_four_needs_no_messages() -> None:
    prior = NofM(2, 4)
    teacher = weight_teacher(prior=prior, size=8, tokens=200, seed=3)
    result = ep(teacher, prior=prior)
    exact_ = enumerate_weights(teacher, prior=prior)
    counts = result.probability.view(24, 2, 4).sum(-1)
    torch.testing.assert_close(counts, torch.full_like(counts, 2.0))
    error = (result.probability - exact_).abs()
    assert error.max() < 2 * ERROR
    assert error.mean() < 0.01


def test_tiles_are_one_support() -> None:
    """A tile over the whole of each row is one decision: its evidence is the sum, its odds one."""
    teacher = weight_teacher(rows=4, size=6, tokens=200, seed=4)
    result = ep(teacher, prior=Blocks((1, 3), Independent(0.5)))
    tiles = result.probability.view(4, 2, 3)
    assert float((tiles - tiles[..., :1]).abs().max()) == 0
    summed = result.evidence.view(4, 2, 3).sum(-1)
    torch.testing.assert_close(result.log_odds.view(4, 2, 3)[..., 0], summed)


def test_a_lattice_against_gibbs() -> None:
    prior = Lattice(-0.5, 0.8)
    teacher = weight_teacher(rows=6, size=8, tokens=120, density=0.4, correlation=0.5, seed=5)
    reference = gibbs(
        teacher.quadratic, prior=prior, slab=teacher.slab, spike=teacher.spike, sweeps=120
    )
    error = (ep(teacher, prior=prior).probability - reference.probability).abs()
    assert error.max() < ERROR + 4 * reference.change
    assert error.mean() < 0.02


@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_rows_of_different_weight(spread: float) -> None:
    teacher = weight_teacher(correlation=1.0, tokens=200, seed=6)
    generator = torch.Generator().manual_seed(6)
    rows = torch.exp(spread * torch.randn(24, generator=generator, dtype=torch.double))
    exact_ = enumerate_weights(teacher, rows=rows)
    result = ep(teacher, rows=rows)
    assert (result.probability - exact_).abs().max() < ERROR
    ignored = ep(teacher)
    assert (ignored.probability - exact_).abs().max() > 3 * ERROR  # the weights matter here


def regression_errors(seeds, correlated: bool) -> list[float]:
    errors = []
    for seed in seeds:
        data = problem(seed, correlated=correlated)
        weight = torch.linalg.solve(data.gram, data.linear)[None]
        result = ep_shared(
            Quadratic(weight, data.gram, 0.0), prior=CHAIN, slab=SLAB, spike=SPIKE,
            learn=False, iterations=200, tolerance=1e-6,
        )  # fmt: skip
        errors.append(float((result.probability[0] - exact(data, CHAIN)[0]).abs().max()))
    return errors


@pytest.mark.parametrize("correlated", [False, True])
def test_regression_with_a_chain(correlated: bool) -> None:
    """One row of ten weights, twenty samples: mean-field inference is off by up to 0.7 here."""
    errors = regression_errors(range(4), correlated)
    assert np.mean(errors) < 0.04
    assert max(errors) < 0.104


@pytest.mark.slow
@pytest.mark.parametrize(("correlated", "worst"), [(False, 0.104), (True, 0.21)])
def test_regression_with_a_chain_over_30_problems(correlated: bool, worst: float) -> None:
    """Measured: means 0.018 and 0.018; worst 0.094, and 0.20 in one correlated problem."""
    errors = regression_errors(range(30), correlated)
    assert np.mean(errors) < 0.03
    assert max(errors) < worst
    assert sorted(errors)[-2] < 0.104


def test_slab_and_density_are_learnt() -> None:
    teacher = weight_teacher(rows=64, size=64, tokens=500, density=0.3, correlation=1.0, seed=7)
    result = ep_shared(teacher.quadratic, prior=Independent(0.5))
    assert result.converged
    assert result.slab == pytest.approx(25.0, rel=0.1)
    assert result.spike == pytest.approx(100 * result.slab)
    assert isinstance(result.prior, Independent)
    assert result.prior.density == pytest.approx(0.3, abs=0.03)


def test_a_field_is_not_unlearnt() -> None:
    teacher = weight_teacher(rows=30, size=20, tokens=300, seed=8)
    prior = Independent(0.5)
    result = ep_shared(teacher.quadratic, prior=prior, field=-3.0)
    assert result.prior is prior
    assert result.probability.sum() < ep_shared(teacher.quadratic, prior=prior).probability.sum()


def test_coupling_finds_blobs_and_the_cap_is_the_callers() -> None:
    """A 48 x 64 layer whose support is smooth blobs, a quarter dense; 300 tokens."""
    support = blobs(0)
    teacher = weight_teacher(support=support, tokens=300, seed=100)
    single = ep_shared(teacher.quadratic, prior=Independent(0.25))
    strong = functools.partial(learn_lattice, max_coupling=1.5)
    coupled = ep_shared(
        teacher.quadratic, prior=Lattice(-1.1, 0.5), learn=strong, on_unreliable="ignore"
    )
    accuracy = [
        float((top(r.log_odds, support) == support).double().mean()) for r in (single, coupled)
    ]
    assert accuracy[0] < 0.84
    assert accuracy[1] > 0.94
    assert isinstance(coupled.prior, Lattice)
    assert 1.2 < coupled.prior.coupling <= 1.5
    masks = [top(r.log_odds, support) for r in (single, coupled)]
    clusters = [measure_regularity(mask).clusters for mask in masks]
    assert clusters[1] < clusters[0] / 4  # measured 26 and 233 over five layers
    errors = [
        float((refit(teacher.quadratic, mask, slab=25.0) - teacher.truth).square().sum())
        for mask in masks
    ]
    assert errors[1] < 0.75 * errors[0]  # measured 0.63
    brier = [float((r.probability - support.double()).square().mean()) for r in (single, coupled)]
    assert brier[1] < 0.5 * brier[0]


def blobs(seed: int, rows: int = 48, cols: int = 64, density: float = 0.25) -> torch.Tensor:
    """White noise smoothed over three sites, its highest quarter."""
    generator = torch.Generator().manual_seed(seed)
    field = torch.randn(1, 1, rows, cols, generator=generator, dtype=torch.double)
    kernel = torch.exp(-0.5 * (torch.arange(-9, 10, dtype=torch.double) / 3) ** 2)
    field = torch.nn.functional.conv2d(field, kernel.view(1, 1, -1, 1), padding=(9, 0))
    field = torch.nn.functional.conv2d(field, kernel.view(1, 1, 1, -1), padding=(0, 9))[0, 0]
    return field > field.flatten().quantile(1 - density)


def top(score: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """As many of the highest scores as the support has."""
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[score.flatten().topk(int(support.sum())).indices] = True
    return mask.view(score.shape)


def test_column_blocks_agree_where_inputs_are_nearly_independent() -> None:
    teacher = weight_teacher(rows=16, size=60, tokens=3000, correlation=0.0, seed=9)
    whole, split = ep(teacher), ep(teacher, block=16)
    assert split.converged
    error = (whole.probability - split.probability).abs()
    assert error.max() < 0.1
    assert error.mean() < 0.005
    assert torch.equal(ep(teacher, block=60).probability, whole.probability)


def test_a_warm_start_ends_where_a_cold_start_ends() -> None:
    teacher = weight_teacher(correlation=1.0, seed=10)
    prior = Lattice(0.0, 0.6)
    cold = ep(teacher, prior=prior, field=-1.0)
    free = ep(teacher, prior=prior)
    warm = ep(teacher, prior=prior, field=-1.0, start=free)
    torch.testing.assert_close(warm.probability, cold.probability, rtol=0, atol=1e-5)
    assert ep(teacher, prior=prior, field=-1.0, start=cold, tolerance=1e-3).iterations <= 2


def test_a_named_slab_takes_the_place_of_the_warm_starts() -> None:
    teacher = weight_teacher(correlation=1.0, seed=10)
    other = dataclasses.replace(teacher, slab=4 * teacher.slab, spike=4 * teacher.spike)
    cold, warm = ep(other), ep(other, start=ep(teacher))
    assert (warm.slab, warm.spike) == (other.slab, other.spike)
    torch.testing.assert_close(warm.probability, cold.probability, rtol=0, atol=1e-5)


def test_moments_are_those_of_the_posterior() -> None:
    """With slab and spike nearly alike the posterior mean is ridge regression."""
    teacher = weight_teacher(correlation=1.0, seed=11)
    quadratic = teacher.quadratic
    result = ep_shared(quadratic, slab=30.0, spike=30.0001, learn=False)
    ridge = quadratic.linear @ torch.linalg.inv(quadratic.gram + 30 * torch.eye(9))
    torch.testing.assert_close(result.mean, ridge, rtol=1e-4, atol=1e-6)
    assert result.evidence.abs().max() < 1e-4


def test_float32_agrees_with_float64() -> None:
    teacher = weight_teacher(correlation=1.0, tokens=800, seed=12)
    quadratic = teacher.quadratic
    single = Quadratic(quadratic.weight.float(), quadratic.gram.float(), 0.0)
    kwargs = {"slab": 25.0, "spike": 2500.0, "learn": False}
    one, two = ep_shared(single, **kwargs), ep_shared(quadratic, **kwargs)
    torch.testing.assert_close(one.probability.double(), two.probability, rtol=0, atol=1e-3)


Q = weight_teacher(rows=3, size=4).quadratic


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ep_shared(Q, slab=0.0), "slab"),
        (lambda: ep_shared(Q, slab=2.0, spike=1.0), "spike"),
        (lambda: ep_shared(Q, iterations=0, tolerance=-1.0, damping=2.0), "iterations.*damping"),
        (lambda: ep_shared(Q, block=0), "block"),
        (lambda: ep_shared(Q, field=torch.zeros(7)), r"broadcast to \(3, 4\)"),
        (lambda: ep_shared(Q, field=math.nan), "field holds NaN"),
        (lambda: ep_shared(Q, rows=torch.ones(4)), "rows"),
        (lambda: ep_shared(Q, rows=torch.tensor([1.0, 0.0, 1.0])), "positive"),
        (lambda: ep_shared(Q, start=ep_shared(weight_teacher(rows=2).quadratic)), "warm start"),
        (lambda: ep_shared(Q, slab=1e9, start=ep_shared(Q)), "below the spike's"),
        (lambda: ep_shared(Q, prior=NofM(2, 3)), "3"),
    ],
)
def test_bad_input_is_refused(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
