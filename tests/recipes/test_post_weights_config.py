"""Settings of inference over single weights."""

from typing import Any

import pytest

from probcomp.errors import InputError
from probcomp.recipes.post_weights_config import WeightsConfig


def test_what_the_pass_over_the_dense_model_shares_goes_on() -> None:
    config = WeightsConfig(
        batch_size=3, limit=77, probes=2, every=5, softness=2.0, damping=0.1, measured=9,
        rounds=4, refit="none", residual=False,
    )  # fmt: skip
    shared = config.evidence()
    for name in (
        "batch_size", "limit", "probes", "every", "softness", "damping", "measured", "rounds",
        "refit", "residual",
    ):  # fmt: skip
        assert getattr(shared, name) == getattr(config, name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": 0.0}, "scale must be positive"),
        ({"scale": float("nan")}, "scale must be positive"),
        ({"scale": float("inf")}, "scale must be positive"),
        ({"spike": 1.0}, "spike must be a finite ratio"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"sweeps": 0}, "sweeps must be at least 1"),
        ({"widest": -1}, "widest must be at least 0"),
        ({"refit": "some"}, "refit must be one of"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"limit": 0}, "limit must be a positive"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        WeightsConfig(**changes)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InputError, match=r"iterations.*scale.*spike"):
        WeightsConfig(iterations=0, scale=-1.0, spike=0.5)
