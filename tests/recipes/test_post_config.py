"""How calibration samples are divided."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.evidence.fisher import Categorical, Gaussian
from probcomp.recipes.post_config import (
    PROBED,
    PROBED_OF_CLASSES,
    SKIP,
    SKIP_OF_CLASSES,
    THIN,
    THIN_OF_CLASSES,
    PostConfig,
    calibration_batches,
    example_of,
    parts_of,
    settled,
)


@pytest.mark.parametrize("named", [False, True])
def test_samples_that_measure_are_spread_over_sorted_data(named: bool) -> None:
    x = torch.arange(103)
    fitted, tried = parts_of({"x": x} if named else (x,), PostConfig(measured=16))
    first, second = (p["x"] if named else p[0] for p in (fitted, tried))
    assert len(second) == 8
    assert torch.equal(torch.cat([first, second]).sort().values, x)
    assert int(second.diff().max()) <= 13
    assert int(second[0]) < 13
    assert int(second[-1]) > 89


@pytest.mark.parametrize(
    ("count", "most", "kept_back"), [(1600, 64, 64), (1600, 500, 100), (8, 64, 2)]
)
def test_how_many_measure(count: int, most: int, kept_back: int) -> None:
    """One in sixteen; of few samples eight, or a quarter."""
    fitted, tried = parts_of((torch.arange(count),), PostConfig(measured=most))
    assert (len(fitted[0]), len(tried[0])) == (count - kept_back, kept_back)


@pytest.mark.parametrize(
    ("likelihood", "kept_back"),
    [(Categorical(), 25), (Categorical(shift=True, unit="token"), 8), (Gaussian(), 8), (None, 8)],
)
def test_single_classes_are_measured_on_more_samples(likelihood, kept_back: int) -> None:
    _, tried = parts_of((torch.arange(100),), PostConfig(), likelihood)
    assert len(tried[0]) == kept_back


def test_three_samples_are_too_few() -> None:
    with pytest.raises(InputError, match="give at least 4"):
        parts_of((torch.arange(3),), PostConfig())


@pytest.mark.parametrize("softness", [0.0, -1.0, float("nan"), float("inf")])
def test_softness_is_positive(softness: float) -> None:
    with pytest.raises(InputError, match="softness"):
        PostConfig(softness=softness)


def test_classifiers_are_looked_at_more_closely_than_texts() -> None:
    config = PostConfig()
    classes, tokens = settled(config, Categorical()), settled(config, Categorical(unit="token"))
    assert classes.every == PROBED_OF_CLASSES < PROBED == tokens.every
    assert classes.thin == THIN_OF_CLASSES < THIN == tokens.thin
    assert (classes.skip, tokens.skip) == (SKIP_OF_CLASSES, SKIP) == (0, 3)
    assert settled(config, Gaussian()) == settled(config, None) == tokens
    given = settled(PostConfig(every=3, thin=5, skip=2), Categorical())
    assert (given.every, given.thin, given.skip) == (3, 5, 2)
    with pytest.raises(InputError, match="thin must be at least 1"):
        PostConfig(thin=0)
    with pytest.raises(InputError, match="every must be at least 1"):
        PostConfig(every=0)


def texts(lengths: torch.Tensor) -> dict[str, torch.Tensor]:
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return {"input_ids": torch.arange(len(lengths))[:, None] * mask, "attention_mask": mask}


def test_batches_that_are_probed_have_texts_of_all_lengths() -> None:
    """In a token of a short text the gradient of a mean over tokens is large."""
    lengths = torch.randperm(120, generator=torch.Generator().manual_seed(0)) + 1
    batches = list(calibration_batches(texts(lengths), 16, every=4))
    found = [batch["attention_mask"].sum(1) for batch in batches]
    assert [len(batch) for batch in found] == [16] * 7 + [8]
    assert torch.equal(torch.cat(found).sort().values, torch.arange(120) + 1)
    probed = torch.cat([found[0], found[4]])
    assert float(probed.float().mean()) == pytest.approx(60.5, abs=2)
    assert int(probed.min()) <= 4
    assert int(probed.max()) >= 117
    for other in found[1:4] + found[5:]:  # the others hold little padding
        assert int(other.max() - other.min()) <= 25


def test_of_sorted_classes_all_are_probed() -> None:
    classes = torch.arange(10).repeat_interleave(12)
    first = next(calibration_batches((classes, classes), 16, every=8))
    assert first[0].unique().tolist() == list(range(10))


@pytest.mark.parametrize("count", [1, 3, 16, 17, 33, 130])
@pytest.mark.parametrize("every", [1, 2, 8, 200])
def test_every_sample_is_in_one_batch(count: int, every: int) -> None:
    batches = [b[0] for b in calibration_batches((torch.arange(count),), 16, every)]
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(count))
    assert len(batches) == -(-count // 16)
    assert min(len(b) for b in batches) > 0


def test_an_example_is_of_middling_samples() -> None:
    assert example_of((torch.arange(100),))[0].tolist() == [25, 75]
    assert example_of((torch.arange(1),))[0].tolist() == [0]
    assert example_of(texts(torch.arange(100) + 1))["attention_mask"].sum(1).tolist() == [26, 76]
