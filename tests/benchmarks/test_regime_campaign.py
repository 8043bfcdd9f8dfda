"""Campaigns told by a table, and advisers with as many runs."""

from dataclasses import replace

import numpy as np
import pytest


def test_a_campaign_is_told_the_rows_of_the_seeds_that_stand_for_its_own(module, sweep_of_digits):
    found = module("_regime_campaign")
    sweep = found.Sweep(*sweep_of_digits)
    rounds = found.campaign(sweep, "digits", 0.08, [6, 3, 5, 4], pilots=5)
    runs = [run for some in rounds for run in some]
    assert [len(some) for some in rounds] == [10, 4, 4, 2]
    assert len(runs) == len(set(runs)) == 20
    assert [run for run in runs if run[2] not in (6, 3, 5, 4)] == []
    assert [seed for level, load, seed in runs if (level, load) == (60, 0.08)][:2] == [6, 3]
    # The first: 10 pilots of 6 s; 60 epochs of both dense runs at 6 s for 60 epochs.
    assert sweep.seconds(rounds[:1]) == pytest.approx(10 * 6 + (60 + 60) * 0.1)
    # Later 30 epochs go on from the stop at 20, in a round of their own.
    later = [*rounds[:1], [(30.0, 0.08, 6)], [(30.0, 0.2, 6)]]
    assert sweep.seconds(later) == pytest.approx(12 * 6 + (60 + 60 + 10) * 0.1)


def test_the_process_that_plans_advises_near_the_best_level_of_quiet_runs(module, sweep_of_digits):
    found = module("_regime_campaign")
    sweep, levels = found.Sweep(*sweep_of_digits), np.array(sweep_of_digits[0].levels)
    runs = [key for key in sweep.rows if key[1] in (0.055, 0.08, 0.4) and key[2] < 2]
    assert levels[found.by_process(sweep, levels, 0.08, runs)] == 20


def test_advisers_with_as_many_runs_know_what_they_should(module, sweep_of_digits):
    found = module("_regime_campaign")
    sweep = found.Sweep(*sweep_of_digits)
    levels, loads = np.array(sweep.task.levels), np.array(sweep.task.densities)
    runs = found.nearest(levels, loads, 0.4, [6, 3])
    assert len(runs) == len(set(runs)) == 18
    assert sorted({load for _, load, _ in runs}) == [0.2, 0.4]
    assert len({level for level, load, _ in runs if load == 0.4}) == 7
    assert levels[found.least_measured(sweep, levels, 0.08, [6, 3, 5], 18)] == 20
    loud = dict(sweep.rows)
    loud[20.0, 0.08, 5] = {**loud[20.0, 0.08, 5], "test_error": 9.0}
    sweep = found.Sweep(sweep.task, loud)
    assert levels[found.least_measured(sweep, levels, 0.08, [6, 3, 5], 14)] == 20  # two seeds each
    assert levels[found.least_measured(sweep, levels, 0.08, [6, 3, 5], 21)] != 20


def test_another_knob_than_epochs_trains_a_network_for_each_value(module, sweep_of_digits):
    found = module("_regime_campaign")
    task = replace(sweep_of_digits[0], knob="batch_size", levels=(16, 64))
    sweep = found.Sweep(task, {(v, 0.08, s): {"wall_s": 6.0} for v in (16.0, 64.0) for s in (0, 1)})
    # An epoch takes 6 s / (2 x 30); a dense run has 60 of them, whatever its batch size.
    once = sweep.seconds([[(16.0, 0.08, 0), (64.0, 0.08, 0)]])
    assert once == pytest.approx(2 * 6 + 2 * 6)
    again = [[(16.0, 0.08, 0)], [(16.0, 0.08, 0), (16.0, 0.08, 1)]]
    assert sweep.seconds(again) == pytest.approx(3 * 6 + 2 * 6)
