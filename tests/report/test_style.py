"""One look: pictures are SVG of the asked size, equal for equal input, and settings stay."""

import base64
import re

import matplotlib as mpl
import pytest

from probcomp.report.style import DENSE, MAGNITUDE, OURS, canvas, data_address


def drawn(width: float, height: float) -> str:
    with canvas(width, height) as target:
        target.axes.plot([0, 1], [1, 0])
        assert target.source == ""
    kind, _, data = target.source.partition(",")
    assert kind == "data:image/svg+xml;base64"
    return base64.b64decode(data).decode()


def test_the_size_is_the_one_asked_for() -> None:
    found = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', drawn(4.0, 2.0))
    assert found is not None
    assert [float(n) / 72 for n in found.groups()] == pytest.approx([4.0, 2.0])


def test_equal_drawings_are_equal_bytes() -> None:
    assert drawn(3.0, 2.0) == drawn(3.0, 2.0)


def test_settings_are_back_after_an_error() -> None:
    before = dict(mpl.rcParams)

    def fail() -> None:
        with canvas():
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert dict(mpl.rcParams) == before


def test_colours_differ_in_grey_print() -> None:
    def luminance(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    assert len({OURS, DENSE, MAGNITUDE}) == 3
    assert abs(luminance(OURS) - luminance(MAGNITUDE)) > 0.05


def test_data_addresses_hold_the_bytes() -> None:
    address = data_address(b"\x00abc", "image/png")
    assert address.startswith("data:image/png;base64,")
    assert base64.b64decode(address.partition(",")[2]) == b"\x00abc"
