"""The report as one page that needs no other file and no network."""

import math
from dataclasses import dataclass
from pathlib import Path

from probcomp.report import words
from probcomp.report.pieces import CodedRow
from probcomp.report.plots import (
    plot_accuracy,
    plot_history,
    plot_inclusion,
    plot_latency,
    plot_mask,
    plot_prediction,
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
    "short", "size", "times",
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
    inclusion = words.inclusion(report)
    return environment.get_template("template.html").render(
        report=report,
        headline=words.headline(report),
        explanation=words.explanation(report),
        budget=words.budget_sentence(report),
        regularity=words.regularity_sentence(report.regularity),
        coded=words.coded_sentence(report),
        rows=[_cost(row) for row in report.coded.tensors] if report.coded else [],
        shares=_shares(report),
        predicted=words.prediction_sentence(report),
        predictions=_predictions(report),
        inclusion_name=inclusion,
        per=words.per(report),
        ratios=report.ratios,
        quality=_quality(report),
        bars=_bars(report),
        masks=[
            (
                mask,
                [
                    plot_mask(mask, which, inclusion)
                    for which in ("ours", "inclusion", "magnitude")
                    if getattr(mask, which)
                ],
            )
            for mask in report.pictures[:PICTURES]
        ],
        inclusion=[plot_inclusion(entry, inclusion) for entry in report.inclusion[:PICTURES]],
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


@dataclass(frozen=True)
class Cost:
    """One tensor of the coded file, as the page's table shows it."""

    name: str
    shape: tuple[int, ...]
    nonzero: int
    distinct: int
    bytes: float
    ratio: float
    each: float
    mask: float
    values: float
    rest: float
    share: float


def _cost(row: CodedRow) -> Cost:
    """Bytes, ratio to 32 bits a number, bits a number, bits of its parts, share of its bits."""
    numbers, total = math.prod(row.shape), sum(row.bits.values())
    rest = total - row.bits["mask"] - row.bits["values"]
    parts = (row.bits["mask"], row.bits["values"], rest)
    mask, values, rest = (part / max(1, numbers) for part in parts)
    return Cost(
        row.name, row.shape, row.nonzero, row.distinct, total / 8, 32 * numbers / max(total, 1e-9),
        total / max(1, numbers), mask, values, rest, row.bits["mask"] / max(total, 1e-9),
    )  # fmt: skip


def _shares(report: Report) -> list[tuple[str, str, float, float]]:
    """Parts of the coded file: key, name, bytes, share."""
    if report.coded is None:
        return []
    names = {
        "mask": "where the non-zeros are",
        "values": "which value each has",
        "codebook": "the values",
        "raw": "values stored as they are",
        "header": "architecture and shapes",
    }
    whole = 8 * report.coded.bytes
    return [
        (key, name, report.coded.bits[key] / 8, report.coded.bits[key] / whole)
        for key, name in names.items()
        if report.coded.bits.get(key, 0) > 0
    ]


def _predictions(report: Report) -> list[Picture]:
    if report.prediction is None or report.nll is None:
        return []
    return plot_prediction(report.prediction, report.nll.difference, words.per(report))


def _quality(report: Report) -> list[Picture]:
    pictures = [plot_accuracy(report.accuracy)] if report.accuracy else []
    if report.latency:
        pictures.append(plot_latency(report.latency))
    if report.reliability:
        pictures.append(plot_reliability(report.reliability))
    return pictures
