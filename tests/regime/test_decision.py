"""The decision rule where the answer is known exactly."""

import numpy as np
import pytest

from probcomp.errors import InputError
from probcomp.regime.decision import best_actions, decide
from probcomp.regime.teacher import TeacherStudent

DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
SCALES = np.linspace(0.2, 0.95, 31)  # small is hot


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("scale", [0.3, 0.6, 0.9])
def test_the_flip_of_the_teacher_student_is_decided_rightly(density, scale):
    toy = TeacherStudent()
    errors = np.array([toy.risk(density, s) for s in SCALES])
    at = int(np.argmin(abs(SCALES - scale)))
    best = toy.best_scale(density)
    gain = errors[at] - toy.risk(density, best)
    # Noise of a tenth of the gain: the answer is not given away, and still certain.
    noise = np.random.default_rng(0).normal(0, 0.1 * gain, size=(400, 1))
    tilt = noise * np.linspace(-1, 1, len(SCALES))
    found = decide(errors + tilt, SCALES, -SCALES, at, gain=0.5 * gain)
    assert found.action() == ("lower" if SCALES[at] < best else "raise")


def test_actions_against_a_loop():
    generator = np.random.default_rng(3)
    errors, heat = generator.random((200, 5)), np.array([3.0, 1.0, 4.0, 0.0, 2.0])
    for at in range(5):
        expected = []
        for row in errors:
            up = max([row[at] - row[j] for j in range(5) if heat[j] > heat[at]], default=-np.inf)
            down = max([row[at] - row[j] for j in range(5) if heat[j] < heat[at]], default=-np.inf)
            expected.append(2 if max(up, down) < 0.1 else (0 if up >= down else 1))
        np.testing.assert_array_equal(best_actions(errors, heat, at, 0.1), expected)


def test_an_uncertain_posterior_is_left_undecided():
    values = np.array([1.0, 2.0, 3.0])
    errors = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]] * 50)
    found = decide(errors, values, values, 1)
    assert found.action() == "undecided"
    np.testing.assert_allclose(found.probability, [0.5, 0.5, 0])
    assert found.interval == (1.0, 3.0)


def test_gain_is_the_expected_fall_to_the_best_value():
    values = np.array([1.0, 2.0])
    found = decide(np.array([[0.2, 0.1], [0.3, 0.1]]), values, values, 0)
    assert found.best == 2.0
    assert found.gain == pytest.approx(0.15)
    assert found.likeliest == "raise"


def test_a_level_that_is_not_there_is_refused():
    with pytest.raises(InputError):
        best_actions(np.zeros((3, 2)), np.zeros(2), 2)
