"""Jobs and outcomes are frozen, named by keyword, and have the defaults they promise."""

import dataclasses

import pytest
import torch

from probcomp.recipes.job import Forecast, Outcome
from tests.recipes.jobs import job


def test_a_job_cannot_be_changed_by_a_method() -> None:
    given = job("params=0.5")
    with pytest.raises(dataclasses.FrozenInstanceError):
        given.budget = None
    assert dataclasses.replace(given, seed=3).seed == 3
    assert (given.seed, given.checkpoint, given.config, given.asked) == (0, None, None, None)
    given.on_step(1, 2, "nothing is said by default")


def test_uses_count_each_weight_once_for_a_sample() -> None:
    """A linear network multiplies once with each of its weights."""
    assert set(job(None).uses.values()) == {1.0}


def test_an_outcome_without_a_posterior_has_an_empty_one() -> None:
    model = torch.nn.Linear(2, 2)
    one, two = Outcome(model=model, masks={}, keep={}), Outcome(model=model, masks={}, keep={})
    assert one.posterior.weights == {}
    assert one.posterior.units == {}
    assert one.history is not two.history
    assert one.forecast is None
    with pytest.raises(TypeError):
        Forecast(1.0, "sample", {}, {}, 0.0)  # by keyword only
