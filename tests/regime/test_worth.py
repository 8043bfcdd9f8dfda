"""What a run is worth: against simulated runs, and which are chosen one after the other."""

import numpy as np
import pytest

from probcomp.regime.worth import expected_fall, worth_most


def belief():
    """Two levels that may be advised and a cell beside them which tells of the second."""
    mean = np.log([0.10, 0.11, 0.20])
    cover = np.array([[0.04, 0.01, 0.0], [0.01, 0.09, 0.08], [0.0, 0.08, 0.10]])
    return mean, cover, np.array([0.05, 0.05, 0.02])


@pytest.mark.parametrize("point", range(3))
def test_the_fall_is_what_simulated_runs_give(point):
    """Runs drawn from the belief; after each the level of least expected error is advised."""
    mean, cover, noise = belief()
    generator = np.random.default_rng(0)
    truth = generator.multivariate_normal(mean, cover, size=400_000)
    shown = truth[:, point] + np.sqrt(noise[point]) * generator.standard_normal(len(truth))
    gain = cover[:2, point] / (cover[point, point] + noise[point])
    left = np.diag(cover)[:2] - gain * cover[:2, point]
    expected = np.exp(mean[:2] + gain * (shown - mean[point])[:, None] + left / 2)
    errors = np.exp(truth[:, :2])
    before = errors.mean(0).min()
    fall = before - errors[np.arange(len(truth)), expected.argmin(1)].mean()
    found = expected_fall(mean, cover, noise, np.array([0, 1]))[point]
    assert found == pytest.approx(fall, rel=0.1)
    assert found > 1e-4


def test_nothing_is_to_be_had_where_all_is_known_or_one_may_be_advised_only():
    mean, cover, noise = belief()
    assert expected_fall(mean, 0 * cover, noise, np.array([0, 1])) == pytest.approx(0)
    assert expected_fall(mean, cover, noise, np.array([1])) == pytest.approx(0, abs=1e-9)


def test_a_loud_point_is_repeated_and_a_dear_one_is_not():
    """Two levels of which one is known: only runs of the other, or of what tells of it, help."""
    mean, cover = np.log([0.10, 0.10]), np.diag([1e-6, 0.09])
    wanted, noise = np.array([0, 1]), np.array([0.3, 0.3])
    assert worth_most(mean, cover, noise, wanted, lambda taken: np.ones(2), 3) == [1, 1, 1]
    mean, cover, noise = belief()
    dear = np.array([1.0, 100.0, 1.0])
    assert 1 not in worth_most(mean, cover, noise, wanted, lambda taken: dear, 2)
    assert 1 in worth_most(mean, cover, noise, wanted, lambda taken: np.array([9.0, 1, 9]), 2)


def test_the_second_run_is_scored_as_if_the_first_were_made():
    """Two like levels: after a run of one, a run of the other is worth more."""
    mean, cover, noise = np.log([0.10, 0.10]), np.diag([0.09, 0.09]), np.array([1e-4, 1e-4])
    taken = worth_most(mean, cover, noise, np.array([0, 1]), lambda taken: np.ones(2), 2)
    assert sorted(taken) == [0, 1]


def test_where_all_is_decided_runs_tell_of_the_levels_and_none_is_made_at_any_price():
    """One level is far better: the fall is nothing, so the variance of the levels counts."""
    mean, cover, noise = np.array([-3.0, 2.0, 0.0]), np.diag([1e-4, 4e-4, 9.0]), np.full(3, 0.01)
    wanted = np.array([0, 1])
    assert expected_fall(mean, cover, noise, wanted).max() < 1e-9
    assert worth_most(mean, cover, noise, wanted, lambda taken: np.ones(3), 2) == [1, 1]
    assert worth_most(mean, cover, noise, wanted, lambda taken: np.array([np.inf, 9, 1]), 1) == [1]
    barred = np.array([np.inf, np.inf, 1.0])
    assert worth_most(mean, cover, noise, wanted, lambda taken: barred, 2) == [2, 2]


def test_fewer_come_where_no_more_may_be_run():
    mean, cover, noise = belief()

    def once(taken):
        return np.array([np.inf if k in taken else 1.0 for k in range(3)])

    assert len(worth_most(mean, cover, noise, np.array([0, 1]), once, 5)) == 3
