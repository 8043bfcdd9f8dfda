import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probcomp.errors import InputError
from probcomp.report import Histogram, MaskPicture, UnitSummary
from probcomp.report.pieces import PICTURE_CELLS, UNIT_POINTS


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 99))
def test_small_masks_are_kept_exactly(rows, cols, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = (torch.rand(rows, cols, generator=generator) < 0.3 for _ in range(2))
    picture = MaskPicture.of("w", ours, theirs)
    assert picture.cell == 1
    assert np.array_equal(picture.pixels(), ours.double().numpy())
    assert np.array_equal(picture.pixels("magnitude"), theirs.double().numpy())


def test_large_masks_are_averaged() -> None:
    mask = torch.rand(2 * PICTURE_CELLS + 1, 7, generator=torch.Generator().manual_seed(0)) < 0.4
    picture = MaskPicture.of("w", mask)
    assert picture.cell == 3
    assert picture.magnitude == ""
    for i in (0, 100, picture.rows - 1):
        for j in range(picture.cols):
            tile = mask[3 * i : 3 * i + 3, 3 * j : 3 * j + 3].double().mean().item()
            assert picture.pixels()[i, j] == pytest.approx(tile, abs=0.5 / 255)


def test_convolutions_lie_in_rows() -> None:
    mask = torch.zeros(2, 3, 2, 2, dtype=torch.bool)
    mask[1, 2, 0, 1] = True
    picture = MaskPicture.of("conv", mask)
    assert np.argwhere(picture.pixels()).tolist() == [[1, 9]]


def test_histogram_counts() -> None:
    found = Histogram.of("w", torch.tensor([0.0, 0.24, 0.25, 0.5, 1.0]), bins=4)
    assert found.counts == (2, 1, 1, 1)
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        Histogram.of("w", torch.tensor([0.5, 1.5]))
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        Histogram.of("w", torch.tensor([0.5, torch.nan]))


def test_units_are_ranked_and_thinned() -> None:
    probability = torch.rand(2000, generator=torch.Generator().manual_seed(0))
    keep = probability > 0.7
    found = UnitSummary.of("mlp", "neuron", probability, keep)
    assert (found.size, found.kept) == (2000, int(keep.sum()))
    assert len(found.inclusion) == UNIT_POINTS
    assert list(found.inclusion) == sorted(found.inclusion, reverse=True)
    assert found.inclusion[0] == pytest.approx(probability.max().item(), abs=1e-6)
    assert found.inclusion[-1] == pytest.approx(probability.min().item(), abs=1e-6)
    with pytest.raises(InputError, match="one shape"):
        UnitSummary.of("mlp", "neuron", probability, keep[:5])


def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="one shape"):
        MaskPicture.of("w", torch.ones(2, 3), torch.ones(3, 2))


def test_scores_are_averaged_like_masks() -> None:
    score = torch.rand(30, 40, generator=torch.Generator().manual_seed(0))
    picture = MaskPicture.of("w", score > 0.5, None, score)
    assert np.abs(picture.pixels("inclusion") - score.double().numpy()).max() <= 0.5 / 255
    assert picture.shape == (30, 40)
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        MaskPicture.of("w", score > 0.5, None, 2 * score)
