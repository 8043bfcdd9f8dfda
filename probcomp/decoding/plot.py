"""A picture of one generation: what was committed when, the blocks, and where the end was seen."""

from pathlib import Path
from typing import Any

import torch

from probcomp.decoding.output import DecodeOutput
from probcomp.errors import InputError
from probcomp.storage import replacing


def plot_generation(output: DecodeOutput, row: int = 0, tokens: list[str] | None = None) -> Any:
    """Positions across, forwards down. Returns a matplotlib figure.

    Left: the end posterior before each forward's decisions as shade, committed positions as
    dots (fainter where the model was less sure), revoked ones as crosses, the block as a line
    below, the canvas's end as a tick. Right: tokens committed per forward. Needs an output that
    was made with ``history=True``.
    """
    from matplotlib.figure import Figure

    steps = [
        (step, int(at[0]))
        for step in output.history
        if len(at := (step.rows == row).nonzero()[:, 0])
    ]
    if not steps:
        raise InputError("there is no history to draw; call decode(..., history=True)")
    width = max(int(step.length[i]) for step, i in steps)
    shade = torch.zeros(len(steps), width + 1)
    for y, (step, i) in enumerate(steps):
        if step.p_end is not None:
            p = step.p_end[i, : int(step.length[i]) + 1]
            shade[y, : len(p)] = p.float()
    height = 1.9 + 0.28 * len(steps)
    figure = Figure(figsize=(min(4 + 0.22 * width, 14), min(height, 12)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(6, 1))
    extent = (0.5, width + 1.5, len(steps) + 0.5, 0.5)
    left.imshow(shade, aspect="auto", cmap="Blues", vmin=0, vmax=1, extent=extent)
    counts = []
    for y, (step, i) in enumerate(steps, 1):
        committed = step.commit[i].nonzero()[:, 0] + 1
        revoked = step.revoked[i].nonzero()[:, 0] + 1
        sure = step.confidence[i, committed - 1].float().clamp(0.0, 1.0)
        left.scatter(committed, [y] * len(committed), 18, "black", alpha=0.2 + 0.8 * sure)
        left.plot(revoked, [y] * len(revoked), "x", color="firebrick", markersize=6)
        begin, end = int(step.begin[i]), int(step.end[i])
        left.plot([begin + 0.5, end + 0.5], [y + 0.4, y + 0.4], color="darkorange", linewidth=1.5)
        left.plot([int(step.length[i]) + 0.5] * 2, [y - 0.5, y + 0.5], color="grey", linewidth=1)
        counts.append(len(committed))
    right.barh(range(1, len(steps) + 1), counts, color="black", height=0.5)
    left.set_xlabel("position")
    figure.legend(handles=_legend(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    left.set_ylabel("forward")
    right.set_xlabel("tokens")
    left.set_yticks(range(1, len(steps) + 1))
    if tokens:
        left.set_xticks(range(1, len(tokens) + 1), tokens, fontsize=8)
    title = f"{output.num_new_tokens[row]} tokens in {output.nfe[row]} forward"
    title += "s" if output.nfe[row] != 1 else ""
    if output.config.temperature == 0:  # what is drawn is not wrong for being unlikely
        title += f", {output.expected_errors[row]:.2f} expected errors"
    left.set_title(title, fontsize=10)
    return figure


def _legend() -> list[Any]:
    """What the marks mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Line2D([], [], marker="o", linestyle="", color="black", label="committed (faint: unsure)"),
        Line2D([], [], marker="x", linestyle="", color="firebrick", label="taken back"),
        Line2D([], [], color="darkorange", label="block"),
        Line2D([], [], marker="|", linestyle="", color="grey", label="end of the canvas"),
        Patch(color="steelblue", label="P(the text ends here)"),
    ]


def save_plot(output: DecodeOutput, path: Path | str, row: int = 0, tokens: Any = None) -> None:
    """Draw one row into a file whose ending names the format (png, svg, pdf)."""
    path = Path(path)
    kind = path.suffix.lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        raise InputError(f"a plot is a png, svg or pdf file, got {path.name!r}")
    figure = plot_generation(output, row, tokens)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=130)
