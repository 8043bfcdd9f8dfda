import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.training import TurboConfig
from probcomp.priors import Independent
from probcomp.recipes.turbo_reading import STEPS
from probcomp.recipes.turbo_vbi import CHECKED, HONESTY, honesty, run, starved, words
from tests.recipes.jobs import job
from tests.recipes.nets import QUICK


def test_without_a_budget_the_posterior_decides():
    outcome = run(job(None, config=QUICK))
    kept = sum(int(mask.sum()) for mask in outcome.masks.values())
    assert 0 < kept < sum(mask.numel() for mask in outcome.masks.values())
    assert outcome.posterior.meta["budget"] == "its own"
    assert outcome.posterior.meta["price_nats"] == 0


def test_numbers_that_failed_the_check_are_called_scores():
    checked = {"removals": 40, "temperature_of_removals": 2.0, "removal_slope": 1.6}
    bins = {"evidence_slope_of_bins": [None, 3.0, 1.0, 1.0]}
    (failed,) = honesty({"conditional": False, **checked, **bins})
    assert failed.startswith(HONESTY)
    assert "1.6 of what was promised" in failed
    assert "20 weights" in failed
    assert failed.endswith("at 0.1 to 0.5, 0.5 to 2 nats.")
    assert honesty({}) == [f"{HONESTY}."]
    assert honesty({"not_read": "no"}) == [f"{HONESTY} (no)."]


def test_numbers_that_passed_say_what_was_checked():
    checked = {"removals": 64, "temperature_of_removals": 2.0, "removal_slope": 1.0}
    bins = {"evidence_slope_of_bins": [1.1, 0.9, 1.0, 1.0]}
    (passed,) = honesty({"conditional": True, **checked, **bins})
    assert passed.startswith(CHECKED)
    assert "32 weights" in passed
    assert "1.10 at 0.1 to 0.5 nats, 0.90 at 0.5 to 2 nats" in passed
    assert "nor any score of a unit" in passed


def test_measured_evidence_says_how_far_off_it_is():
    meta = {
        "measured": 34,
        "misfit_of_ranges": [0.01, 0.08, 0.01, None],
        "checked_of_ranges": [8, 5, 3, 0],
    }
    (passed,) = honesty({"conditional": True, **meta})
    assert passed.startswith(CHECKED)
    assert "where weights can stand in for each other they are no more than scores" in passed
    assert "measured on the loss for 34 weights" in passed
    assert "log-odds of 16 weights" in passed
    assert "off by 0.08 at worst" in passed  # the worst range, and on how many weights it stands
    assert "5 from 0.05 nats" in passed
    assert "none to try from 2 nats" in passed
    assert "neither the prior nor scores of units" in passed
    assert passed.count(". ") == 1  # two sentences
    (failed,) = honesty({"conditional": False, **meta})
    assert failed.startswith(HONESTY)
    assert "off by 0.08 at worst" in failed
    nothing = {**meta, "misfit_of_ranges": [None] * 4, "checked_of_ranges": [0] * 4}
    (failed,) = honesty({"conditional": False, **nothing})
    assert "no weight could be tried" in failed


def test_what_is_checked_and_what_is_not_have_one_name():
    """Reports head the section of single weights with "scores"."""
    assert CHECKED.startswith("Inclusion scores of weights are the probability of one weight")
    assert HONESTY.startswith("Inclusion scores are not probabilities")


def test_a_layer_starved_by_a_budget_in_macs_is_named():
    given = job("macs=0.3")
    first, *rest = given.units
    keep = {axis.name: torch.ones(axis.size, dtype=torch.bool) for axis in rest}
    keep[first.name] = torch.arange(first.size) < first.min_keep
    (warning,) = starved(given, keep)
    assert f"{first.name} ({first.min_keep} of {first.size})" in warning
    assert not any(axis.name in warning for axis in rest)
    keep[first.name] = torch.arange(first.size) <= first.min_keep
    assert starved(given, keep) == []
    keep[first.name] = torch.arange(first.size) < first.min_keep
    assert starved(job("params=0.3"), keep) == []


def test_a_checkpoint_of_another_unit_of_budget_is_refused(tmp_path):
    """Both leave three tenths, but of different things."""
    run(job("macs=0.3", config=QUICK, checkpoint=tmp_path))
    with pytest.raises(InputError, match=r"another run: .*cost.* differ"):
        run(job("params=0.3", config=QUICK, checkpoint=tmp_path))


def test_the_outcome_names_its_prior_and_its_steps():
    outcome = run(job("params=0.4", config=QUICK))
    assert outcome.prior == words(QUICK)
    # Trained until losses are far from quadratic: the evidence is measured and checked.
    assert len(outcome.posterior.meta["misfit_of_ranges"]) == 4
    assert outcome.posterior.meta["conditional"] is True
    assert outcome.posterior.meta["calibrated"] is False
    assert sum(w.startswith(CHECKED) for w in outcome.warnings) == 1
    assert not any(w.startswith(HONESTY) for w in outcome.warnings)
    assert len(outcome.history["nll"]) == QUICK.rounds
    assert set(outcome.posterior.weights) == {"one.weight", "two.weight", "three.weight"}
    assert outcome.posterior.meta["budget"] == "params=0.4"
    other = run(job("params=0.4", config=QUICK, prior=Independent(0.3)))
    assert "Independent" in other.prior


def test_a_run_resumes_from_its_checkpoint(tmp_path):
    whole = run(job("params=0.4", config=QUICK))

    class Stop(Exception):
        pass

    def stop(step: int, total: int, text: str) -> None:
        if step == 3:
            raise Stop

    with pytest.raises(Stop):
        run(job("params=0.4", config=QUICK, checkpoint=tmp_path, on_step=stop))
    seen = []
    resumed = run(
        job(
            "params=0.4",
            config=QUICK,
            checkpoint=tmp_path,
            on_step=lambda step, total, text: seen.append(step) if "nll" in text else None,
        )
    )
    assert seen == [4, 5, 6]
    for name, mask in whole.masks.items():
        assert mask.equal(resumed.masks[name]), name
    for (name, one), (_, two) in zip(
        whole.model.named_parameters(), resumed.model.named_parameters(), strict=True
    ):
        assert one.equal(two), name


def test_steps_never_run_past_their_total():
    seen: list[tuple[int, int]] = []
    run(job("params=0.4", config=QUICK, on_step=lambda step, total, _: seen.append((step, total))))
    total = QUICK.rounds + STEPS
    *said, last = seen
    assert said == [(step, total) for step in range(1, len(said) + 1)]
    assert QUICK.rounds < len(said) <= total
    assert last == (total, total)  # what was not needed is passed over in one line


def test_settings_of_another_kind_are_refused():
    with pytest.raises(InputError, match="must be a TurboConfig, got dict"):
        run(job("params=0.4", config={"rounds": 3}))
    with pytest.raises(InputError, match="rounds"):
        TurboConfig(rounds=0)
