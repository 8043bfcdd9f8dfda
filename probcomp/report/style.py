"""One look for all pictures: colours that colour-blind readers tell apart, and quiet axes."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito (2008): apart under all common colour-vision deficiencies, and in grey print.
OURS, DENSE, MAGNITUDE = "#0072B2", "#666f7a", "#D55E00"
INK, QUIET, GRID, PAPER = "#1c2430", "#5b6472", "#e3e7ec", "#f3f5f7"

RC: Any = {  # matplotlib 3.11 has a type of its own for these keys, older ones do not
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "probcomp",  # the same report gives the same bytes
    "figure.facecolor": "white",
}


@dataclass(frozen=True)
class Picture:
    """An image ready for a page.

    Attributes:
        source: a ``data:`` address that holds the whole image.
        title: what it shows, in plain words.
        note: one sentence below it, or empty.
    """

    source: str
    title: str
    note: str = ""


class Canvas:
    """Axes to draw on; `source` is the finished picture's address."""

    def __init__(self, axes: "Axes") -> None:
        self.axes = axes
        self.source = ""


@contextmanager
def canvas(width: float = 3.7, height: float = 2.4) -> Iterator[Canvas]:
    """Draw one picture of ``width`` x ``height`` inches, written as SVG when the block ends.

    No pyplot and no global settings are touched, so drawing is safe inside a user's program.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        target = Canvas(figure.add_subplot())
        yield target
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    target.source = data_address(buffer.getvalue(), "image/svg+xml")


def data_address(data: bytes, kind: str) -> str:
    """Bytes as a ``data:`` address, so that a page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
