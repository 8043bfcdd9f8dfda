"""Information of a pilot: closed forms of linear-Gaussian models."""

import numpy as np
import pytest

from probcomp.regime.design import decision_gain, expected_information, next_pilots, should_stop


def test_information_of_one_gaussian_channel():
    # mean ~ N(0, 4), noise variance 1: I = log(1 + 4) / 2. The sample variance is used as it is.
    mean = np.random.default_rng(0).normal(0, 2, size=(4000, 1, 1))
    exact = 0.5 * np.log1p(mean.var())
    found = expected_information(mean, np.ones((4000, 1)))[0]
    assert found == pytest.approx(exact, abs=1e-9)


def test_channels_that_repeat_each_other_add_less_than_two():
    mean = np.random.default_rng(0).normal(size=(2000, 1, 1)).repeat(2, axis=2)
    one = expected_information(mean[..., :1], np.ones((2000, 1)))[0]
    both = expected_information(mean, np.ones((2000, 2)))[0]
    assert one < both < 2 * one
    assert both == pytest.approx(0.5 * np.log1p(2 * mean[..., 0].var()), abs=1e-9)


def test_a_pilot_that_tells_the_action_gains_its_whole_entropy():
    actions = np.repeat([0, 1], 500)
    tells = np.where(actions == 0, -5.0, 5.0)
    mean = np.stack([tells, np.zeros(1000)], 1)[..., None]
    gain, share = decision_gain(mean, np.full((1000, 1), 0.1), actions)
    assert gain[0] == pytest.approx(np.log(2), abs=1e-3)
    assert gain[1] == pytest.approx(0, abs=1e-9)
    assert share[0] == pytest.approx(0.5, abs=1e-6)
    assert share[1] == pytest.approx(1, abs=1e-9)


def test_the_stop_rule():
    assert should_stop(np.array([0.96, 0.02, 0.02]), 0.5)
    assert should_stop(np.array([0.5, 0.3, 0.2]), 0.01)
    assert not should_stop(np.array([0.5, 0.3, 0.2]), 0.1)


def test_a_cheap_pilot_tells_of_the_largest_gain_among_dearer_ones():
    """Two candidates: one that tells the action at a high price, one that tells a little."""
    from types import SimpleNamespace

    actions = np.repeat([0, 1], 500)
    tells = np.where(actions == 0, -5.0, 5.0)
    mean = np.zeros((1000, 2, 3))
    mean[:, 0, 0], mean[:, 1, 0] = tells, tells / 20
    model = SimpleNamespace(
        points=lambda settings, load: (np.asarray(settings), np.asarray(load)),
        coordinates=SimpleNamespace(load=lambda x: x, settings=lambda x: x),
        surfaces=lambda x, c: {"mean": mean},
        parameters={"noise": np.full((1000, 3), 0.3)},
        repeats=False,
        draws=actions,
        table=SimpleNamespace(knobs=[SimpleNamespace(name="lr")]),
    )
    settings, load, cost = np.array([[1.0], [2.0]]), np.array([0.1, 0.1]), np.array([100.0, 1.0])
    (found,) = next_pilots(model, actions, settings, load, cost=cost)
    assert found.settings == {"lr": 2.0}
    assert found.decision_gain < 0.5
    assert found.largest_gain == pytest.approx(np.log(2), abs=1e-3)
