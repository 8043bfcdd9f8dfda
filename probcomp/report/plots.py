"""The pictures of a report. Each takes a part of the record and returns a `Picture`."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probcomp.evaluation.accuracy import Reliability
from probcomp.evaluation.estimate import Comparison, Estimate
from probcomp.evaluation.latency import Latency
from probcomp.report.pieces import Histogram, MaskPicture, Prediction, UnitSummary
from probcomp.report.style import DENSE, INK, MAGNITUDE, OURS, PAPER, QUIET, Picture, canvas
from probcomp.report.words import chance, count, interval, percent, times

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


def plot_inclusion(histogram: Histogram, name: str = "inclusion score") -> Picture:
    """Inclusion scores of one layer's weights, on a logarithmic scale of counts."""
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
        axes.set_xlabel(f"{name} of a weight")
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


def plot_units(unit: UnitSummary, name: str = "inclusion score") -> Picture:
    """Inclusion scores of one axis' units, highest first, with the number kept."""
    rank = np.linspace(1, max(1, unit.size), max(1, len(unit.inclusion)))
    with canvas() as target:
        axes = target.axes
        axes.axvspan(0.5, unit.kept + 0.5, color=OURS, alpha=0.12, linewidth=0)
        style: dict[str, Any] = {"marker": "o", "markersize": 3} if unit.size <= 40 else {}
        if unit.inclusion:
            axes.plot(rank, unit.inclusion, color=OURS, **style)
        axes.axhline(0.5, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlim(0.5, unit.size + 0.5)
        axes.set_xlabel(f"{unit.kind.replace('_', ' ')}, highest score first")
        axes.set_ylabel(name)
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
        axes.legend(loc="lower right")
    errors = ", ".join(f"{d.name} {percent(d.ece)}" for d in diagrams)
    note = f"On the dashed line, confidence is honest. Mean gap: {errors}. Dot area: samples."
    return Picture(target.source, "Is the confidence honest?", note)


def plot_prediction(prediction: Prediction, measured: Estimate, unit: str) -> list[Picture]:
    """The predicted loss increase beside the measured one, and what each axis was charged.

    ``unit`` is that of the loss, as in ``nats per token``.
    """
    pictures = []
    with canvas(height=1.45) as target:
        axes = target.axes
        axes.plot(prediction.increase, 0, "D", color=DENSE, markersize=6)
        axes.plot((measured.low, measured.high), (-1, -1), color=OURS, linewidth=5, alpha=0.35)
        axes.plot(measured.value, -1, "o", color=OURS, markersize=7)
        for y, value in ((0, prediction.increase), (-1, measured.value)):
            axes.annotate(
                f"{value:.3g}", (value, y), (0, 7), textcoords="offset points", ha="center",
                fontsize=8, color=INK,
            )  # fmt: skip
        axes.set_yticks((0, -1), ("predicted", "measured"), fontsize=9, color=INK)
        axes.set_ylim(-1.5, 0.85)
        low = min(0.0, measured.low, prediction.increase)
        high = max(measured.high, prediction.increase)
        axes.set_xlim(1.1 * low, 1.12 * high if high > 0 else 1.0)
        axes.grid(axis="y", visible=False)
        # Small losses have long numbers, which would run into each other.
        axes.locator_params(axis="x", nbins=5)
        axes.ticklabel_format(axis="x", scilimits=(-3, 4))
        axes.set_xlabel(f"loss increase, {unit}" if len(unit) < 20 else unit)
    note = f"Bar: {chance(measured.level)} interval over {count(measured.n)} held-out samples."
    pictures.append(Picture(target.source, "Predicted against measured", note))
    shares = dict(prediction.by_axis)
    if shares:
        pictures.append(_bars(shares, unit, "Predicted for each axis alone"))
    if prediction.temperatures:
        heat = {n: t for n, t in prediction.temperatures.items() if t > 0 and math.isfinite(t)}
        pictures.append(_temperatures(heat))
    return pictures


def _bars(values: Mapping[str, float], label: str, title: str) -> Picture:
    """Horizontal bars, in the order given from top to bottom."""
    with canvas(height=0.75 + 0.22 * max(3, len(values))) as target:
        axes = target.axes
        places = -np.arange(len(values))
        axes.barh(places, list(values.values()), 0.65, color=OURS, alpha=0.85)
        axes.set_yticks(places, short_names(list(values)), fontsize=7.5, color=INK)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)
    return Picture(target.source, title)


def _temperatures(heat: Mapping[str, float]) -> Picture:
    """Predicted over measured increase of each axis' sampled removal, on a logarithmic scale."""
    from matplotlib.ticker import LogLocator, NullLocator

    with canvas(height=0.75 + 0.22 * max(3, len(heat))) as target:
        axes = target.axes
        places = -np.arange(len(heat))
        axes.axvline(1, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.plot(list(heat.values()), places, "o", color=OURS, markersize=5)
        axes.set_xscale("log")
        low, high = min(0.5, *heat.values()), max(2.0, *heat.values())
        axes.set_xlim(low / 1.4, high * 1.4)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if high > 30 * low else (1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(places[-1] - 0.6, 0.6)
        axes.set_yticks(places, short_names(list(heat)), fontsize=7.5, color=INK)
        axes.set_xlabel("predicted / measured, log scale")
    note = "One sampled removal an axis; on the dashed line the curve needed no correction."
    return Picture(target.source, "How far off each curve was", note)


def short_names(names: Sequence[str], longest: int = 20) -> list[str]:
    """Names for narrow places: without what all begin with, and with the middle left out.

    ``encoder.layer.0.attention.self.query.head`` beside other layers becomes ``0 … query.head``.
    """
    parts = [name.split(".") for name in names]
    common = 0
    if len(parts) > 1:
        columns = zip(*(p[:-1] for p in parts))  # the last part always stays
        common = sum(1 for _ in itertools.takewhile(lambda c: len(set(c)) == 1, columns))
    short = []
    for rest in (p[common:] for p in parts):
        name = ".".join(rest)
        if len(name) > longest and len(rest) > 3:
            name = f"{rest[0]} … {'.'.join(rest[-2:])}"
        short.append(name)
    return short if len(set(short)) == len(set(names)) else list(names)


def plot_mask(picture: MaskPicture, which: str = "ours", name: str = "inclusion score") -> Picture:
    """A matrix image: a mask, dark where weights are kept, or the inclusion scores.

    One pixel is one weight, or the mean of a square of them. The axes count the dense layer's
    units. A tall matrix is laid on its side, so that it does not fill the page.
    """
    from matplotlib.colors import LinearSegmentedColormap

    values = picture.pixels(which)
    rows, columns = axis_names(picture.shape)
    sides = [values.shape[0] * picture.cell, values.shape[1] * picture.cell]
    if picture.shape:
        sides = [picture.shape[0], math.prod(picture.shape[1:])]
    if values.shape[0] > 1.5 * values.shape[1]:
        values, sides, (rows, columns) = values.T, sides[::-1], (columns, rows)
    tone = MAGNITUDE if which == "magnitude" else OURS
    colours = LinearSegmentedColormap.from_list("tone", [PAPER, tone])
    if which == "inclusion":
        colours = LinearSegmentedColormap.from_list("heat", [PAPER, "#56B4E9", OURS, "#08243d"])
    height = min(max(3.1 * values.shape[0] / values.shape[1], 0.6), 3.4)
    with canvas(height=height + 0.62) as target:
        axes = target.axes
        cell = picture.cell
        image = axes.imshow(
            values, colours, vmin=0, vmax=1, aspect="auto", interpolation="none",
            extent=(0, values.shape[1] * cell, values.shape[0] * cell, 0),
        )  # fmt: skip
        axes.set_xlim(0, sides[1])
        axes.set_ylim(sides[0], 0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(True)
        axes.locator_params(axis="x", integer=True, nbins=6)
        axes.locator_params(axis="y", integer=True, nbins=4)
        axes.set_xlabel(columns)
        axes.set_ylabel(rows if height > 1 or len(rows) < 9 else rows.replace(" ", "\n"))
        if which == "inclusion":
            bar = target.axes.figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
            bar.set_ticks([0, 0.5, 1] if height > 0.9 else [0, 1])
            bar.outline.set_visible(False)
    titles = {"ours": "kept", "magnitude": "kept by magnitude pruning", "inclusion": name}
    note = f"Each dot is the mean of {cell} × {cell} weights." if cell > 1 else ""
    return Picture(target.source, titles[which], note)


def axis_names(shape: Sequence[int]) -> tuple[str, str]:
    """What the rows and the columns of a parameter's matrix count."""
    if len(shape) > 2:
        return "output channel", "input channel × kernel position"
    return "output", "input"
