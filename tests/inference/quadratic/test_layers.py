"""Hyper-parameters summed over: against enumeration, and calibrated where one estimate is not."""

import dataclasses
import math
import weakref
from collections.abc import Iterator

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.quadratic import GroupFactor, ep_group, ep_layers
from probcomp.inference.quadratic.layers import (
    DENSEST,
    SLAB_STEP,
    WIDEST,
    _density,
    _even,
    _mixed,
    _weakest,
)
from probcomp.inference.quadratic.surface import FINE
from probcomp.priors import Independent
from probcomp.testing.calibration import calibration
from probcomp.testing.enumeration import all_supports
from probcomp.testing.quadratic import Teacher, group_teacher, set_evidence

ECE = 0.05


def teacher(seed: int, density: float = 0.5, **settings) -> Teacher:
    sizes = {"groups": 8, "width": 1, "rows": 8, "tokens": 60, "slab": 50.0} | settings
    return group_teacher(correlation=1.0, density=density, seed=seed, **sizes)


def free(t: Teacher) -> list[GroupFactor]:
    return [GroupFactor(t.quadratic, t.columns)]


def enumerated(
    t: Teacher, relative: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """All supports at a fine grid: ``ln p(D, h)`` [slabs, densities], and probabilities [..., G].

    Slabs are logarithms relative to the dense weights' mean square, by default the prior's range.
    """
    square = float(t.quadratic.weight.square().mean())
    if relative is None:
        highest = SLAB_STEP * math.floor(_weakest(free(t), [square]) / SLAB_STEP)
        # The grid's ends are the middles of its outermost cells.
        ends = torch.linspace(-WIDEST * SLAB_STEP - 0.125, highest + 0.125, 81).double()
        relative = 0.5 * (ends[1:] + ends[:-1])
    densities = (torch.arange(100).double() + 0.5) / 100
    supports = all_supports(len(t.support))
    kept = supports.sum(1)
    size = supports.shape[1]
    prior = kept * densities.log()[:, None] + (size - kept) * (-densities).log1p()[:, None]
    joint, probability = [], []
    for slab in relative:
        factor = GroupFactor(t.quadratic, t.columns, math.exp(float(slab)) / square)
        score = set_evidence(factor, supports > 0) + prior
        joint.append(score.logsumexp(1))
        probability.append(score.softmax(1) @ supports)
    return torch.stack(joint), torch.stack(probability)


def test_one_layer_against_enumeration() -> None:
    """Supports, slab and density summed exactly. Measured: 0.005; of the estimate 0.23."""
    t = teacher(3)
    joint, probability = enumerated(t)
    truth = joint.flatten().softmax(0) @ probability.flatten(0, 1)
    found = ep_layers([free(t)])[0]
    torch.testing.assert_close(found.probability, truth, rtol=0, atol=0.02)
    estimate = ep_group(free(t), prior=Independent(0.5), learn=True, iterations=60)
    assert float((estimate.probability - truth).abs().max()) > 0.2


def test_a_named_slab_leaves_the_density() -> None:
    t = teacher(3)
    square = float(t.quadratic.weight.square().mean())
    joint, probability = enumerated(t, relative=torch.tensor([math.log(t.slab * square)]).double())
    truth = joint.flatten().softmax(0) @ probability.flatten(0, 1)
    found = ep_layers([[t.factor]])[0]
    torch.testing.assert_close(found.probability, truth, rtol=0, atol=0.02)
    assert found.slabs == pytest.approx((t.slab,))


def test_layers_that_are_alike_are_learnt_as_one() -> None:
    """Slabs are known, all densities are 0.4: the more layers share, the less they scatter."""
    layers = [[teacher(s, 0.4, tokens=200).factor] for s in range(4)]

    def densities(concentration: float) -> torch.Tensor:
        found = ep_layers(layers, concentration=concentration)
        return torch.tensor([r.prior.density for r in found])

    apart, some, one = (float(densities(c).std()) for c in (1e9, 1.0, 1e-9))
    assert one < 1e-6
    assert 2 * one < some < 0.8 * apart
    alone = torch.tensor([ep_layers([x])[0].prior.density for x in layers])
    assert apart == pytest.approx(float(alone.std()), abs=1e-6)


def test_two_consumers_share_the_step_of_their_slabs() -> None:
    """Twice the evidence: as one consumer with the rows of both, whose scale is alike."""
    t = teacher(1, tokens=400)
    rows = torch.cat([t.quadratic.weight, t.quadratic.weight])
    one = GroupFactor(dataclasses.replace(t.quadratic, weight=rows), t.columns)
    both = ep_layers([[free(t)[0], free(t)[0]]])[0]
    whole = ep_layers([[one]])[0]
    torch.testing.assert_close(both.probability, whole.probability, rtol=0, atol=1e-3)
    assert both.slabs == pytest.approx((whole.slabs[0],) * 2, rel=1e-3)


def test_the_result_can_be_priced_and_continued() -> None:
    t = teacher(0)
    result = ep_layers([[t.factor]])[0]
    assert isinstance(result.prior, Independent)
    torch.testing.assert_close(result.at_price(0.0).probability, result.probability)
    assert result.expected_cost(1.0) < result.expected_cost(0.0)
    again = ep_group([t.factor], start=result, price=0.5)
    assert bool((again.probability < result.probability + 0.1).all())


def test_layers_are_taken_one_at_a_time() -> None:
    """Matrices of a layer are gone when the next one is made; the results are the same."""
    made: list[weakref.ref] = []

    def layers() -> Iterator[list[GroupFactor]]:
        for seed in range(3):
            factor = teacher(seed).factor
            assert [ref() for ref in made] == [None] * seed
            made.append(weakref.ref(factor.quadratic))
            yield [factor]

    together = ep_layers([[teacher(seed).factor] for seed in range(3)])
    for one, other in zip(ep_layers(layers()), together, strict=True):
        torch.testing.assert_close(one.probability, other.probability)


@pytest.mark.parametrize("slabs", [1, 20])
def test_the_prior_of_the_values_sums_to_one(slabs: int) -> None:
    """But for densities beyond the grid, 0.7 per cent at either end."""
    steps = range(-FINE * DENSEST, FINE * DENSEST + 1)
    density = torch.tensor([_density(i / FINE) for i in steps]).double()
    whole = float(_even(density, slabs).sum()) * (FINE * (slabs - 1) + 1)
    assert whole == pytest.approx(1.0, abs=0.015)


def test_averages_keep_certain_units_apart() -> None:
    odds = torch.tensor([[800.0, -800.0, 0.0], [900.0, -900.0, 2.0]], dtype=torch.double)
    mixed = _mixed(odds, torch.tensor([0.5, 0.5], dtype=torch.double))
    assert 800 < float(mixed[0]) < 801
    assert -801 < float(mixed[1]) < -800
    expected = torch.sigmoid(odds[:, 2]).mean().logit()
    torch.testing.assert_close(mixed[2], expected)


@pytest.mark.slow
def test_calibrated_where_an_estimate_of_each_layer_is_not() -> None:
    layers = [teacher(s, 0.4, groups=64, tokens=200, slab=200.0) for s in range(2000, 2024)]
    support = torch.cat([t.support for t in layers])
    found = torch.cat([r.probability for r in ep_layers([free(t) for t in layers])])
    estimates = torch.cat(
        [
            ep_group(free(t), prior=Independent(0.5), learn=True, iterations=60).probability
            for t in layers
        ]
    )
    assert calibration(found, support).ece < ECE
    assert calibration(found, support).brier < calibration(estimates, support).brier - 0.01
    assert calibration(estimates, support).ece > 1.2 * ECE


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="at least one layer"):
        ep_layers([])
    for concentration in (0.0, math.inf):
        with pytest.raises(InputError, match="concentration"):
            ep_layers([free(teacher(0))], concentration=concentration)
    with pytest.raises(InputError, match="damping"):
        ep_layers([free(teacher(0))], damping=1.0)
