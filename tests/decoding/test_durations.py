import math

import pytest
import torch
from scipy.special import beta

from probcomp.decoding.durations import (
    Crp,
    Fixed,
    Geometric,
    NegativeBinomial,
    log_duration,
    mean_duration,
)
from probcomp.errors import InputError

FAMILIES = [Geometric(5.0, 20), Fixed(6), NegativeBinomial(5.0, 4.0, 40), Crp(1.4, 30)]


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_durations_are_laws_and_survivals(family):
    log_d, log_longer = log_duration(family)
    assert float(log_d.exp().sum()) == pytest.approx(1.0)
    tail = 1.0 - log_d.exp().cumsum(0)
    assert log_longer.exp().tolist() == pytest.approx(tail.tolist(), abs=1e-12)


def test_crp_is_the_yule_simon_law():
    alpha = 1.7
    log_d, _ = log_duration(Crp(alpha, 50))
    want = [alpha * beta(length, alpha + 1) for length in range(1, 50)]
    assert log_d[:49].exp().tolist() == pytest.approx(want)


def test_sequential_seating_is_the_crp_hazard():
    """Continue with probability n / (n + alpha), else open a block."""
    alpha, stay, law = 0.9, 1.0, []
    for n in range(1, 12):
        law.append(stay * alpha / (n + alpha))
        stay *= n / (n + alpha)
    log_d, _ = log_duration(Crp(alpha, 12))
    assert log_d[:11].exp().tolist() == pytest.approx(law)


def test_means():
    assert mean_duration(Fixed(6)) == pytest.approx(6)
    assert mean_duration(NegativeBinomial(5.0, 4.0, 200)) == pytest.approx(5.0, abs=1e-6)
    assert mean_duration(Crp.with_mean(24.0, 64)) == pytest.approx(24.0, abs=1e-6)
    # Mean 24 cut at 64 needs a concentration near 0.29, and then the law has two humps.
    assert Crp.with_mean(24.0, 64).alpha == pytest.approx(0.29, abs=0.02)


def test_fixed_puts_everything_on_its_size():
    log_d, _ = log_duration(Fixed(3))
    assert log_d.exp().tolist() == [0.0, 0.0, 1.0]
    assert math.isclose(float(torch.tensor(1.0)), float(log_d.exp()[-1]))


@pytest.mark.parametrize("family", [Geometric(0.5), Fixed(0), NegativeBinomial(0.2), Crp(-1.0)])
def test_bad_durations_are_refused(family):
    with pytest.raises(InputError):
        log_duration(family)
