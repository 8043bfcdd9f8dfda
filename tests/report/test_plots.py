import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from probcomp.report import Histogram, MaskPicture, Prediction, plots
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


def shown(picture: MaskPicture, which: str) -> np.ndarray:
    """The pixels of the image inside the drawing, [rows, columns, 3]."""
    source = plots.plot_mask(picture, which).source
    svg = base64.b64decode(source.partition(",")[2]).decode()
    data = re.search(r"data:image/png;base64,\s*([^\"]+)", svg)
    assert data is not None
    return imread(io.BytesIO(base64.b64decode(data[1])))[:, :, :3]


@pytest.mark.parametrize(("which", "colour"), [("ours", OURS), ("magnitude", MAGNITUDE)])
def test_mask_pixels(which, colour) -> None:
    mask = torch.eye(3).bool()
    image = shown(MaskPicture.of("w", mask, mask.flip(1)), which)
    found = np.abs(image - np.array(to_rgb(colour))).max(2) < 0.02
    assert np.array_equal(found, (mask if which == "ours" else mask.flip(1)).numpy())


def test_tall_masks_are_laid_down() -> None:
    mask = torch.zeros(9, 2, dtype=torch.bool)
    mask[8, 0] = True
    image = shown(MaskPicture.of("w", mask), "ours")
    assert image.shape[:2] == (2, 9)
    assert image[0, 8, 0] < 0.5 < image[1, 8, 0]


def test_scores_are_darker_where_they_are_higher() -> None:
    score = torch.tensor([[0.0, 0.3, 0.6, 1.0]])
    light = shown(MaskPicture.of("w", score > 0.5, None, score), "inclusion")[0].sum(1)
    assert list(light) == sorted(light, reverse=True)
    assert light[0] - light[3] > 1.5


def test_axes_are_named_after_what_they_count() -> None:
    assert plots.axis_names((300, 64)) == ("output", "input")
    assert plots.axis_names((8, 3, 5, 5)) == ("output channel", "input channel × kernel position")


def test_the_name_of_the_scores_is_on_every_picture(report) -> None:
    for name in ("inclusion score", "inclusion probability"):
        drawn = [
            plots.plot_inclusion(report.inclusion[0], name),
            plots.plot_units(report.units[0], name),
        ]
        assert plots.plot_mask(report.pictures[0], "inclusion", name).title == name
        assert all(d.source != plots.plot_history(report.history)[0].source for d in drawn)


def test_predictions_stand_beside_what_was_measured(report) -> None:
    both, axes, heat = plots.plot_prediction(
        report.prediction, report.nll.difference, "nats per sample"
    )
    assert "360 held-out samples" in both.note
    assert axes.title == "Predicted for each axis alone"
    assert "no correction" in heat.note
    bare = Prediction(-0.1, {}, {})
    assert len(plots.plot_prediction(bare, report.nll.difference, "nats per token")) == 1


def test_long_names_keep_what_tells_them_apart() -> None:
    names = [f"encoder.layer.{i}.attention.self.query.head" for i in range(3)]
    assert plots.short_names(names) == [f"{i} … query.head" for i in range(3)]
    assert plots.short_names(["fc1.neuron", "fc2.neuron"]) == ["fc1.neuron", "fc2.neuron"]
    assert plots.short_names(["a.b.c.d.e.f.g.h.i.j.k.l"]) == ["a … k.l"]
    twins = ["a.long.middle.name.of.x.y", "a.long.middle.names.of.x.y"]
    assert len(set(plots.short_names(twins))) == 2
    assert plots.short_names([]) == []
