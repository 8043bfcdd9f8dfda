"""The report as one page that needs no other file and no network."""

from pathlib import Path

from probcomp.report import words
from probcomp.report.plots import (
    draw_mask,
    plot_accuracy,
    plot_history,
    plot_inclusion,
    plot_latency,
    plot_reliability,
    plot_sizes,
    plot_units,
)
from probcomp.report.summary import Report
from probcomp.storage import write_text

PICTURES = 12
"""Most pictures of one sort on the page; report.json has the numbers of all."""


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
    for name in ("count", "times", "percent", "points", "size", "number", "seconds", "interval"):
        environment.filters[name] = getattr(words, name)
    environment.filters["shape"] = words.shape
    return environment.get_template("template.html").render(
        report=report,
        headline=words.headline(report),
        explanation=words.explanation(report),
        budget=words.budget_sentence(report),
        regularity=words.regularity_sentence(report.regularity),
        ratios=report.ratios,
        quality=_quality(report),
        sizes=plot_sizes(report.layers) if report.layers else None,
        masks=[
            (mask, [draw_mask(mask, which) for which in ("ours", "magnitude")[: _sides(mask)]])
            for mask in report.pictures[:PICTURES]
        ],
        inclusion=[plot_inclusion(entry) for entry in report.inclusion[:PICTURES]],
        units=[plot_units(entry) for entry in report.units[:PICTURES]],
        history=plot_history(report.history),
        left_out={
            "mask pictures": len(report.pictures) - PICTURES,
            "histograms": len(report.inclusion) - PICTURES,
            "axes": len(report.units) - PICTURES,
        },
    )


def write_page(report: Report, path: Path | str) -> None:
    """Write ``report.html`` whole or not at all."""
    write_text(path, render_page(report))


def _sides(mask) -> int:
    return 2 if mask.magnitude else 1


def _quality(report: Report):
    pictures = [plot_accuracy(report.accuracy)] if report.accuracy else []
    if report.latency:
        pictures.append(plot_latency(report.latency))
    if report.reliability:
        pictures.append(plot_reliability(report.reliability))
    return pictures
