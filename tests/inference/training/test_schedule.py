import itertools
import math

import pytest

from probcomp.inference.training import TurboConfig
from probcomp.inference.training.schedule import LEAST_SHARE, divergence_weight, plan, ramp

CONFIG = TurboConfig(rounds=20, kl_warmup=0.2, kappa_rounds=0.5, target_rounds=0.6)


def test_schedules_start_and_end_where_they_should() -> None:
    plans = [plan(CONFIG, r, 1000.0, 10.0, 0.5) for r in range(20)]
    assert [p.kl_weight for p in plans[:5]] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
    assert plans[0].kappa == CONFIG.kappa_start
    assert plans[10].kappa == pytest.approx(CONFIG.kappa_end)
    # Twelve equal factors from all to a hundredth.
    assert plans[0].aim == pytest.approx(1000 * 0.01 ** (1 / 12))
    assert plans[11].aim == plans[19].aim == pytest.approx(10.0)
    assert [p.subsidise for p in plans] == [True] * 11 + [False] * 9
    assert [p.settled for p in plans] == [False] * 12 + [True] * 8
    assert plans[0].learning == 1
    assert all(a.learning > b.learning > 0.1 for a, b in itertools.pairwise(plans))
    assert all(p.ceiling == math.inf for p in plans)


def test_without_a_target_the_price_stops_at_zero() -> None:
    plans = [plan(CONFIG, r, 1000.0, None, 1.0) for r in range(20)]
    assert all(p.ceiling == 0 for p in plans)
    assert plans[-1].aim == pytest.approx(1000 * LEAST_SHARE)


def test_a_coupling_rises_where_it_is_given_a_start() -> None:
    config = TurboConfig(rounds=10, coupling=4.0, coupling_start=1.0, coupling_rounds=0.6)
    seen = [plan(config, r, 100.0, 10.0, 1.0).coupling for r in (0, 3, 6, 9)]
    assert seen == pytest.approx([1.0, 2.5, 4.0, 4.0])
    assert plan(TurboConfig(coupling=4.0), 3, 100.0, 10.0, 1.0).coupling is None


def test_no_ramp_is_over_at_once() -> None:
    assert ramp(0.0, 0.0) == 1
    assert (ramp(0.1, 0.2), ramp(0.5, 0.2)) == (0.5, 1)


def test_the_divergence_counts_in_full_from_a_seventh_of_a_sample_a_weight_on() -> None:
    assert divergence_weight(CONFIG, 1437, 50200) == pytest.approx(0.2, abs=0.001)  # digits
    assert divergence_weight(CONFIG, 60_000, 266_200) == 1  # MNIST
    assert divergence_weight(CONFIG, 10, 70) == 1
    assert divergence_weight(TurboConfig(kl_weight=0.3), 60_000, 10) == 0.3
