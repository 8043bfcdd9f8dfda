"""Pruning in stages: the budget is met at the end, and spent."""

import dataclasses
from pathlib import Path

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.baselines import IterativeConfig, iterative, magnitude
from tests.inference.baselines.networks import accuracy, limit, loss, setting

USELESS = 8
ALLOWED = 60
QUICK = IterativeConfig(epochs=10, stages=4, stage_epochs=3, learning_rate=1e-2)


@pytest.mark.parametrize("score", ["magnitude", "obd", "obs"])
def test_the_budget_is_met_and_spent_and_useless_inputs_go(score: str) -> None:
    given = setting(USELESS)
    given = dataclasses.replace(given, limit=limit(given.model, ALLOWED))
    found = iterative(given, QUICK, score=score)
    spent = given.limit.spent(found.masks, found.keep)
    assert ALLOWED - 4 <= spent <= ALLOWED  # a weight more may bring a unit's bias with it
    kept = found.masks["0.weight"].float().mean(0)
    assert kept[:4].mean() > 2 * kept[4:].mean()
    assert accuracy(found.model, USELESS) > 0.9
    assert found.history["density"] == sorted(found.history["density"], reverse=True)
    for name, mask in found.masks.items():
        assert not found.model.get_parameter(name)[~mask].any()


def test_stages_spend_what_one_cut_leaves_over() -> None:
    """One cut ranks weights that feed units nobody reads; stages spend them again."""
    given = setting(USELESS)
    allowed = 30.0
    given = dataclasses.replace(given, limit=limit(given.model, allowed))
    found = iterative(given, QUICK)
    assert given.limit.spent(found.masks, found.keep) > allowed - 4
    once = magnitude(given.model, given.batches, loss=loss, nonzeros=15, epochs=10)
    from probcomp.inference.baselines.readout import settle

    masks, keep = settle(once.model, once.masks, given.units)
    assert given.limit.spent(masks, keep) < given.limit.spent(found.masks, found.keep)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="give a budget"):
        iterative(setting(), QUICK)
    given = setting()
    given = dataclasses.replace(given, limit=limit(given.model, ALLOWED))
    with pytest.raises(InputError, match="score must be"):
        iterative(given, QUICK, score="size")
    with pytest.raises(InputError, match="writes no checkpoints, got checkpoint='there'"):
        iterative(dataclasses.replace(given, checkpoint=Path("there")), QUICK)
    with pytest.raises(InputError, match="stages must be at least 1"):
        IterativeConfig(stages=0)


def test_a_teacher_holds_every_refit_to_the_given_network() -> None:
    given = setting()
    given = dataclasses.replace(given, limit=limit(given.model, ALLOWED))
    x = next(iter(given.batches(0)))[0]

    def gap(share: float) -> float:
        found = iterative(given, dataclasses.replace(QUICK, refit_teacher=share))
        p, q = (torch.log_softmax(m(x), 1) for m in (given.model, found.model))
        return float((p.exp() * (p - q)).sum(1).mean())

    assert gap(1.0) < 0.5 * gap(0.0)
