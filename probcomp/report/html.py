"""The report as one page that needs no other file and no network."""

import math
from dataclasses import dataclass
from pathlib import Path

from probcomp.report import words
from probcomp.report.plots import (
    draw_mask,
    plot_accuracy,
    plot_history,
    plot_inclusion,
    plot_latency,
    plot_reliability,
    plot_units,
)
from probcomp.report.style import Picture
from probcomp.report.summary import Report
from probcomp.storage import write_text

PICTURES = 12
"""Most pictures of one sort on the page; report.json has the numbers of all."""

BARS = 24
"""Most layers in the picture of what is left; the table below it has every tensor."""
FILTERS = (
    "chance", "count", "interval", "moment", "number", "percent", "points", "seconds", "shape",
    "size", "times",
)  # fmt: skip


def render_page(report: Report) -> str:
    """The page as HTML text. Every word that comes from outside is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in FILTERS:
        environment.filters[name] = getattr(words, name)
    return environment.get_template("template.html").render(
        report=report,
        headline=words.headline(report),
        explanation=words.explanation(report),
        budget=words.budget_sentence(report),
        regularity=words.regularity_sentence(report.regularity),
        ratios=report.ratios,
        quality=_quality(report),
        bars=_bars(report),
        masks=[
            (
                mask,
                [draw_mask(mask, which) for which in ("ours", "magnitude") if getattr(mask, which)],
            )
            for mask in report.pictures[:PICTURES]
        ],
        inclusion=[plot_inclusion(entry) for entry in report.inclusion[:PICTURES]],
        units=[plot_units(entry) for entry in report.units[:PICTURES]],
        history=plot_history(report.history),
        left_out={
            "mask pictures": len(report.pictures) - PICTURES,
            "histograms": len(report.inclusion) - PICTURES,
            "axes": len(report.units) - PICTURES,
            "layers": sum(len(layer.before) > 1 for layer in report.layers) - BARS,
        },
    )


def write_page(report: Report, path: Path | str) -> None:
    """Write ``report.html`` whole or not at all."""
    write_text(path, render_page(report))


@dataclass(frozen=True)
class Bar:
    """One layer in the picture of what is left: counts, and shares of the dense layer."""

    name: str
    dense: int
    stored: int
    nonzero: int

    @property
    def stored_share(self) -> float:
        """Numbers in the new tensor over those in the old one."""
        return self.stored / max(1, self.dense)

    @property
    def nonzero_share(self) -> float:
        """Non-zeros in the new tensor over the numbers in the old one."""
        return self.nonzero / max(1, self.dense)


def _bars(report: Report) -> list[Bar]:
    """The largest weight matrices, in the order of the model."""
    matrices = [layer for layer in report.layers if len(layer.before) > 1] or list(report.layers)
    largest = sorted(matrices, key=lambda layer: -layer.nonzero_before)[:BARS]
    return [
        Bar(
            layer.name,
            math.prod(layer.before),
            0 if layer.after is None else math.prod(layer.after),
            layer.nonzero_after,
        )
        for layer in matrices
        if layer in largest
    ]


def _quality(report: Report) -> list[Picture]:
    pictures = [plot_accuracy(report.accuracy)] if report.accuracy else []
    if report.latency:
        pictures.append(plot_latency(report.latency))
    if report.reliability:
        pictures.append(plot_reliability(report.reliability))
    return pictures
