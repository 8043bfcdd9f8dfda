"""One dense pass: statistics and targets of some samples, a meter on the others."""

import pytest
import torch

from probcomp.recipes.likelihoods import likelihood_of
from probcomp.recipes.post_config import PostConfig, calibration_batches, parts_of
from probcomp.recipes.post_evidence import dense_evidence
from tests.recipes.posts import stage


def evidence(config: PostConfig):
    found = stage(config)
    given = found.job
    likelihood = likelihood_of(given.task, given.model, next(calibration_batches(given.train, 2)))
    batches: list[int] = []
    manager = dense_evidence(
        given,
        given.task,
        likelihood,
        config,
        found.matrices,
        found.places,
        lambda: batches.append(1),
    )
    return found, likelihood, manager, batches


def test_statistics_are_of_the_samples_that_are_not_kept_back() -> None:
    config = PostConfig(measured=16)
    found, likelihood, manager, batches = evidence(config)
    fitted, tried = parts_of(found.job.train, config, likelihood)
    with manager as seen, torch.no_grad():
        hidden = torch.relu(found.job.model.one(fitted[0])).double()
        statistics = seen.statistics["two.weight"]
        assert statistics.count == len(fitted[0]) == len(found.job.train[0]) - 16
        torch.testing.assert_close(statistics.gram, hidden.T @ hidden, rtol=1e-5, atol=1e-3)
        assert statistics.metric is not None
        assert sum(len(batch[0]) for batch in seen.meter.batches) == len(tried[0]) == 16
        assert seen.targets is not None
        assert sum(len(b[0]) for b in seen.targets.batches) == len(fitted[0])
    assert len(batches) == -(-len(fitted[0]) // config.batch_size) + 1


def test_the_meter_is_the_divergence_on_what_was_kept_back() -> None:
    config = PostConfig(measured=16)
    found, likelihood, manager, _ = evidence(config)
    _, tried = parts_of(found.job.train, config, likelihood)
    model = found.job.model
    assert likelihood is not None
    with manager as seen, torch.no_grad():
        assert seen.meter.increase({}) == 0
        new = 0.5 * model.three.weight.double()
        measured = seen.meter.increase(
            {"three.weight": (found.matrices["three.weight"], new, None)}
        )
        hidden = torch.relu(model.two(torch.relu(model.one(tried[0]))))
        logits = hidden @ new.float().T + model.three.bias
        wanted = float(likelihood.divergence(logits, model(tried[0]), tried[1]))
    assert measured == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("config", [PostConfig(refit="dense"), PostConfig(limit=10**9)])
def test_without_a_walk_in_step_no_targets_are_kept(config: PostConfig) -> None:
    _, _, manager, _ = evidence(config)
    with manager as seen:
        assert seen.targets is None
        assert (seen.meter.replay is None) == (config.limit is not None)


def test_defaults_are_those_of_the_likelihood() -> None:
    """One class a sample: every row counts, and every batch is probed."""
    config = PostConfig(measured=16)
    found, likelihood, manager, _ = evidence(config)
    fitted, _ = parts_of(found.job.train, config, likelihood)
    with manager as seen:
        assert seen.statistics["two.weight"].probed == len(fitted[0])
    found, likelihood, manager, _ = evidence(PostConfig(measured=16, every=4))
    with manager as seen:
        assert seen.statistics["two.weight"].probed < 0.3 * len(fitted[0])
