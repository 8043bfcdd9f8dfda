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
