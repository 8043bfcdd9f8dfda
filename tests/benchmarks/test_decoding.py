"""Numbers of the decoding benchmark that are worked out there, on tiny cases."""

import sys
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).parents[2] / "benchmarks")
sys.path.insert(0, FOLDER)
from _decoding_beliefs import ratio_interval  # noqa: E402
from _decoding_compare import (  # noqa: E402
    interval,
    length_distance,
    mark_front,
    once,
    step_share,
    times_fewer_at_law,
)

sys.path.remove(FOLDER)


def test_steps_of_one_and_two_letters_are_counted():
    assert step_share(["a1,b2,d3", "c0", "a1,c2,d3"]) == 0.5
    assert step_share(["a1,e2"]) is None  # no lawful step
    assert step_share(["a1,,b2", ""]) is None  # an item is missing: nothing to measure


def test_the_ledger_s_interval_draws_prompts_and_not_tokens():
    """Wrong tokens that come four at a time, or on a prompt that comes four times, say as much as
    a quarter of them: the interval is twice as wide as that of a count."""
    single = [(f"p{i}", 0.1, float(i % 10 == 0)) for i in range(1000)]
    low, high = ratio_interval(single)
    assert low < 1.0 < high
    assert high - low == pytest.approx(4 / 10, rel=0.2)  # four standard errors of sqrt(100) / 100
    burst = [(f"p{i}", 0.1, 4.0 * (i % 40 == 0)) for i in range(1000)]
    again = [(f"p{i // 4}", 0.1, float(i // 4 % 10 == 0)) for i in range(1000)]
    for found in (burst, again):
        low, high = ratio_interval(found)
        assert high - low == pytest.approx(8 / 10, rel=0.2)


def test_a_decoder_is_run_once_a_key():
    calls, known = [], {}
    for key in ("a", "b", "a"):
        assert once(known, (key,), lambda key=key: (calls.append(key), key))[1] == key
    assert calls == ["a", "b"]


def test_the_front_holds_what_nothing_beats():
    rows = [
        {"right": r, "forwards": f} for r, f in ((0.9, 2.0), (0.9, 3.0), (1.0, 5.0), (0.8, 1.0))
    ]
    mark_front(rows)
    assert [row["on_front"] for row in rows] == [True, False, True, True]


def test_intervals_are_of_the_mean_and_distances_of_the_law():
    mean, low, high = interval([0.0, 1.0] * 50)
    assert low < mean == 0.5 < high
    assert high - low == pytest.approx(4 * 0.05, abs=0.05)  # four standard errors of 0.05
    assert length_distance([2]) == pytest.approx(0.75, abs=1e-4)  # one item: chance 0.25


def test_forwards_are_weighted_by_the_law_of_lengths():
    """Twice as many short texts as the law has change nothing; a length that is missing does."""
    lengths = [3 * n - 1 for n in range(1, 9)]
    entry = {"n": [*lengths, 2, 2], "nfe": [*(n / 2 for n in lengths), 1, 1]}
    assert times_fewer_at_law(entry) == 2.0
    assert times_fewer_at_law({"n": lengths[:-1], "nfe": lengths[:-1]}) is None
