"""What runs of one seed share, on draws of the law that is assumed."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from probcomp.regime.seeds import PRIOR, common_share, seeds_seen
from tests.regime.test_fit import of_the_prior


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_the_share_is_found_from_the_deviations(rho):
    generator = np.random.default_rng(0)
    seeds, cells = 300, 20
    v, e = generator.normal(size=(seeds, 1)), generator.normal(size=(seeds, cells))
    z = np.sqrt(rho) * v + np.sqrt(1 - rho) * e
    deviation = (z - z.mean(0)).ravel()
    label = np.repeat(np.arange(seeds), cells)
    drawn = common_share(deviation, label, 4000, generator)
    assert drawn.mean() == pytest.approx(rho, abs=0.08)
    low, high = np.quantile(drawn, [0.02, 0.98])
    assert low - 0.02 <= rho <= high
    assert drawn.std() < 0.1


def test_without_labels_or_repeats_the_prior_is_drawn_from():
    generator = np.random.default_rng(0)
    deviation = generator.normal(size=40)
    for seed, values in ((None, deviation), (np.arange(40) % 2, 0 * deviation)):
        drawn = common_share(values, seed, 20_000, generator)
        assert drawn.mean() == pytest.approx(1 / (1 + PRIOR), abs=0.01)


def test_seeds_count_by_their_shares():
    cells = np.repeat(np.arange(6), 2)
    assert seeds_seen(np.tile([0, 1], 6), cells) == pytest.approx(2)
    assert seeds_seen(np.arange(12), cells) == pytest.approx(12)
    assert seeds_seen(None, cells) == pytest.approx(2)
    assert seeds_seen(np.array([0] * 11 + [1]), cells) == pytest.approx(144 / 122)


def of_two_seeds(times=2):
    model = of_the_prior(np.repeat(np.arange(9), times), more=0.0)
    return replace(model, table=replace(model.table, seed=np.arange(9 * times) % times))


def test_two_seeds_leave_the_level_open_but_not_the_differences_of_settings():
    """The variance of ln(error) grows by s^2 rho / 2, in step at all settings of a load."""
    model = of_two_seeds()
    rows = np.arange(len(model.draws))
    x = model.coordinates.load([0.1, 0.1, 0.4])
    far = np.concatenate(
        [model.common_shift(rows, len(rows), x, np.random.default_rng(k)) for k in range(200)]
    )
    np.testing.assert_allclose(far[:, 0], far[:, 1])
    s = np.tile(model.seeds(x), (200, 1))
    share = (far / s)[:, 0]
    np.testing.assert_allclose((far / s)[:, 2], share)  # in step with the spread of each load
    assert 0 < share.var() < 0.5
    many = of_two_seeds(8)
    fewer = np.concatenate(
        [many.common_shift(rows, len(rows), x, np.random.default_rng(k)) for k in range(200)]
    )
    assert fewer.std() < 0.7 * far.std()


def test_predictions_have_the_shift_and_those_of_runs_that_stand_alone_have_none():
    for times, wider in product((1, 3), (False, True)):
        model = of_two_seeds(times) if wider else of_the_prior(np.repeat(np.arange(9), times), 0.0)
        x = model.coordinates.load([0.2])
        z = model.surfaces(x, model.coordinates.settings([[20.0]]))["mean"][:, 0, 0]
        found = np.log(model.predict({"epochs": 20.0}, 0.2).error[:, 0])
        plain = model.coordinates.z_mean[0] + model.coordinates.z_scale[0] * z
        rows = np.arange(len(z))
        extra = (
            found
            - plain
            - model.mean_over_seeds(rows, len(z), x)[:, 0] * (model.coordinates.z_scale[0])
        )
        if times == 1:
            np.testing.assert_allclose(extra, 0, atol=1e-6)
        else:
            assert extra.std() > 0.01
