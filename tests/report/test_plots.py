import base64
import io
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from probcomp.report import Histogram, MaskPicture, plots
from probcomp.report.style import MAGNITUDE, OURS


@pytest.fixture(scope="module")
def drawn(report) -> list:
    return pictures(report)


def pictures(report) -> list:
    return [
        plots.plot_accuracy(report.accuracy),
        plots.plot_latency(report.latency),
        plots.plot_reliability(report.reliability),
        *map(plots.plot_inclusion, report.inclusion),
        *map(plots.plot_units, report.units),
        *plots.plot_history(report.history),
    ]


def test_all_are_well_formed_svg(drawn) -> None:
    assert len(drawn) == 3 + 3 + 1 + 4
    for picture in drawn:
        kind, _, data = picture.source.partition(",")
        assert kind == "data:image/svg+xml;base64"
        root = ElementTree.fromstring(base64.b64decode(data))
        assert root.tag.endswith("svg")
        assert picture.title


def test_settings_are_left_alone(report) -> None:
    before = dict(mpl.rcParams)
    plots.plot_accuracy(report.accuracy)
    assert dict(mpl.rcParams) == before


def test_notes_state_the_numbers(report) -> None:
    note = plots.plot_inclusion(Histogram("w", (70, 0, 0, 10, 0, 0, 0, 0, 0, 20))).note
    assert note.startswith("20.0\u00a0% of 100 lie above one half; 10.0\u00a0% are undecided")
    assert plots.plot_inclusion(Histogram("w", (0, 0))).note == "no weights"
    assert "360 test samples" in plots.plot_accuracy(report.accuracy).note
    assert "12 alternating runs" in plots.plot_latency(report.latency).note


def test_history_draws_each_series_once() -> None:
    found = plots.plot_history({"step": [1, 2], "nll": [1.0, 0.1], "own_thing": [1, 1], "kl": []})
    assert [picture.title for picture in found] == ["Loss on the training data", "Own thing"]


@pytest.mark.parametrize("values", [[float("nan"), 1.0], [0.0, 0.0], [-1.0, 5.0], [1e-6, 1e6]])
def test_history_draws_odd_values(values) -> None:
    assert len(plots.plot_history({"nll": values})) == 1


@pytest.mark.parametrize(("which", "colour"), [("ours", OURS), ("magnitude", MAGNITUDE)])
def test_mask_pixels(which, colour) -> None:
    mask = torch.eye(3).bool()
    picture = MaskPicture.of("w", mask, mask.flip(1))
    source = plots.draw_mask(picture, which).source
    image = imread(io.BytesIO(base64.b64decode(source.partition(",")[2])))[:, :, :3]
    shown = np.abs(image - np.array(to_rgb(colour))).max(2) < 0.01
    assert np.array_equal(shown, (mask if which == "ours" else mask.flip(1)).numpy())


def test_tall_masks_are_laid_down_and_say_so() -> None:
    mask = torch.zeros(9, 2, dtype=torch.bool)
    mask[8, 0] = True
    drawn = plots.draw_mask(MaskPicture.of("w", mask))
    image = imread(io.BytesIO(base64.b64decode(drawn.source.partition(",")[2])))
    assert image.shape[:2] == (2, 9)
    assert image[0, 8, 0] < 0.5 < image[1, 8, 0]
    assert "on its side" in drawn.note
