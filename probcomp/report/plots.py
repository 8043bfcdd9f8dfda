"""The pictures of a report. Each takes a part of the record and returns a `Picture`."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probcomp.evaluation.accuracy import Reliability
from probcomp.evaluation.estimate import Comparison
from probcomp.evaluation.latency import Latency
from probcomp.report.pieces import Histogram, MaskPicture, UnitSummary
from probcomp.report.style import (
    DENSE,
    INK,
    MAGNITUDE,
    OURS,
    QUIET,
    Picture,
    canvas,
    data_address,
)
from probcomp.report.words import chance, count, interval, percent, times

NO_METADATA: Any = {"Software": None}  # the library version would make equal pictures unequal
SERIES = {
    "nll": ("Loss on the training data", "nats per sample"),
    "kl": ("Distance from the prior (KL)", "nats"),
    "density": ("Expected share kept", "% of weights"),
    "price": ("Price that meets the budget", "nats per unit of cost"),
    "accuracy": ("Accuracy while training", "% correct"),
    "temperature": ("Temperature", ""),
}
"""Title and unit of the known series of ``Report.history``."""


def plot_accuracy(comparison: Comparison) -> Picture:
    """Both accuracies with their intervals."""
    rows = (("dense", comparison.dense, DENSE), ("compressed", comparison.compressed, OURS))
    with canvas(height=1.35) as target:
        axes = target.axes
        for y, (_, estimate, colour) in enumerate(rows):
            low, value, high = (100 * v for v in (estimate.low, estimate.value, estimate.high))
            axes.plot((low, high), (-y, -y), color=colour, linewidth=5, alpha=0.35)
            axes.plot(value, -y, "o", color=colour, markersize=7)
            axes.annotate(
                f"{value:.1f}", (value, -y), (0, 7), textcoords="offset points", ha="center",
                fontsize=8, color=INK,
            )  # fmt: skip
        axes.set_yticks((0, -1), [name for name, _, _ in rows], fontsize=9, color=INK)
        axes.set_ylim(-1.5, 0.75)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("test samples classified correctly, %")
    level = chance(comparison.dense.level)
    note = f"Bars: {level} intervals over {count(comparison.dense.n)} test samples."
    return Picture(target.source, "Accuracy, dense and compressed", note)


def plot_latency(latency: Latency) -> Picture:
    """Times per batch: median, and the range from the 20 % to the 80 % quantile."""
    rows = (("dense", latency.dense, DENSE), ("compressed", latency.compressed, OURS))
    with canvas(height=1.35) as target:
        axes = target.axes
        for y, (_, spread, colour) in enumerate(rows):
            axes.barh(-y, spread.median, 0.55, color=colour, alpha=0.85)
            axes.plot((spread.low, spread.high), (-y, -y), color=INK, linewidth=1.4)
        axes.set_yticks((0, -1), [name for name, _, _ in rows], fontsize=9, color=INK)
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"milliseconds per batch of {latency.batch}")
    ratio = latency.ratio
    threads = f"{latency.threads} thread{'s' * (latency.threads != 1)}"
    note = (
        f"Dense over compressed {times(ratio.value)} ({chance(ratio.level)} interval "
        f"{interval(ratio, 1, 2)}) on "
        f"{latency.device}, {threads}, {latency.repeats} alternating runs. Lines: 20 to 80 %. "
        "Masked zeros still cost time here; removed units do not."
    )
    return Picture(target.source, "Time per batch", note)


def plot_inclusion(histogram: Histogram) -> Picture:
    """Inclusion probabilities of one layer's weights, on a logarithmic scale of counts."""
    from matplotlib.ticker import NullLocator

    bins = len(histogram.counts)
    edges = np.linspace(0, 1, bins + 1)
    counts = np.asarray(histogram.counts)
    with canvas() as target:
        axes = target.axes
        colours = [OURS if edge >= 0.5 else DENSE for edge in edges[:-1]]
        axes.bar(edges[:-1], counts, 1 / bins, align="edge", color=colours)
        axes.set_ylim(0.7, 2 * max(1, counts.max()))
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: count(value))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_xlim(0, 1)
        axes.set_xlabel("probability that the weight is needed")
        axes.set_ylabel("weights (log scale)")
        axes.grid(axis="x", visible=False)
    total = int(counts.sum())
    unsure = int(counts[(edges[:-1] >= 0.1) & (edges[1:] <= 0.9)].sum())
    kept = int(counts[edges[:-1] >= 0.5].sum())
    note = (
        f"{percent(kept / total)} of {count(total)} lie above one half; "
        f"{percent(unsure / total)} are undecided (0.1 to 0.9)."
        if total
        else "no weights"
    )
    return Picture(target.source, histogram.name, note)


def plot_units(unit: UnitSummary) -> Picture:
    """Inclusion probabilities of one axis' units, highest first, with the number kept."""
    rank = np.linspace(1, max(1, unit.size), max(1, len(unit.probability)))
    with canvas() as target:
        axes = target.axes
        axes.axvspan(0.5, unit.kept + 0.5, color=OURS, alpha=0.12, linewidth=0)
        style: dict[str, Any] = {"marker": "o", "markersize": 3} if unit.size <= 40 else {}
        if unit.probability:
            axes.plot(rank, unit.probability, color=OURS, **style)
        axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlim(0.5, unit.size + 0.5)
        axes.set_xlabel(f"{unit.kind.replace('_', ' ')}, most needed first")
        axes.set_ylabel("probability of need")
    return Picture(target.source, unit.name, f"{count(unit.kept)} of {count(unit.size)} kept.")


def plot_history(history: Mapping[str, Sequence[float]]) -> list[Picture]:
    """One small picture per series over the outer iterations."""
    pictures = []
    for name, values in history.items():
        if name == "step" or not len(values):
            continue
        title, unit = SERIES.get(name, (name.replace("_", " ").capitalize(), ""))
        share = unit.startswith("%")
        series = np.asarray(values, float) * (100 if share else 1)
        steps = np.asarray(history.get("step", range(1, len(values) + 1)), float)
        with canvas(height=2.0) as target:
            axes = target.axes
            style: dict[str, Any] = {"marker": "o", "markersize": 3} if len(values) < 30 else {}
            axes.plot(steps, series, color=OURS, **style)
            positive = series[np.isfinite(series) & (series > 0)]
            wide = len(positive) == len(series) and positive.max() > 50 * positive.min()
            if wide:
                axes.set_yscale("log")
            elif np.nanmax(np.abs(series), initial=0) >= 10_000:
                axes.yaxis.set_major_formatter(lambda value, _: count(value))
            axes.locator_params(axis="x", integer=True, nbins=6)
            axes.set_xlabel("outer iteration")
            axes.set_ylabel(unit + (", log scale" if wide and unit else ""))
        pictures.append(Picture(target.source, title))
    return pictures


def plot_reliability(diagrams: Sequence[Reliability]) -> Picture:
    """Stated confidence against the share that was right."""
    with canvas(height=2.7) as target:
        axes = target.axes
        axes.plot((0, 100), (0, 100), color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)))
        for diagram, colour in zip(diagrams, (DENSE, OURS, MAGNITUDE)):
            most = max(diagram.count, default=1)
            area = [10 + 90 * n / most for n in diagram.count]
            x, y = (100 * np.asarray(v) for v in (diagram.confidence, diagram.accuracy))
            axes.scatter(x, y, area, color=colour, alpha=0.8, linewidth=0, label=diagram.name)
        axes.set_xlim(0, 103)
        axes.set_ylim(0, 103)
        axes.set_xlabel("stated confidence, %")
        axes.set_ylabel("actually right, %")
        axes.legend(loc="upper left")
    errors = ", ".join(f"{d.name} {percent(d.ece)}" for d in diagrams)
    note = f"On the dashed line, confidence is honest. Mean gap: {errors}. Dot area: samples."
    return Picture(target.source, "Is the confidence honest?", note)


def draw_mask(picture: MaskPicture, which: str = "ours") -> Picture:
    """A mask, one pixel per weight (or per square of weights), dark where weights are kept."""
    from matplotlib.colors import to_rgb
    from matplotlib.image import imsave

    colour = np.array(to_rgb(OURS if which == "ours" else MAGNITUDE))
    density = picture.pixels(which)[:, :, None]
    notes = []
    if picture.cell > 1:
        notes.append(f"each dot averages {picture.cell} × {picture.cell} weights")
    if density.shape[0] > 1.5 * density.shape[1]:
        density = density.transpose(1, 0, 2)  # a tall matrix would fill the page
        notes.append("laid on its side: outputs run from left to right")
    paper = np.array(to_rgb("#f3f5f7"))
    image = np.round(255 * (paper + density * (colour - paper))).astype(np.uint8)
    buffer = io.BytesIO()
    imsave(buffer, image, format="png", metadata=NO_METADATA)
    title = "probcomp" if which == "ours" else "magnitude pruning"
    return Picture(data_address(buffer.getvalue(), "image/png"), title, "; ".join(notes))
