"""The report in a terminal: the same numbers in a dozen lines."""

from typing import TYPE_CHECKING

from probcomp.report import words
from probcomp.report.summary import Report

if TYPE_CHECKING:
    from rich.console import Console


def print_report(report: Report, console: "Console") -> None:
    """Print the headline, the sizes, the budget and the warnings."""
    from rich.table import Table

    console.print()
    console.print(words.headline(report), style="bold", markup=False, highlight=False)
    console.print(words.explanation(report), markup=False, highlight=False)
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in ("", "dense", "compressed", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for row in _rows(report):
        table.add_row(*row)
    console.print()
    console.print(table)
    console.print()
    lines = {
        "Budget: ": words.budget_sentence(report),
        "": words.coded_sentence(report),
        "Prediction: ": words.prediction_sentence(report),
    }
    for label, text in lines.items():
        if text:
            console.print(f"{label}{text}", markup=False, highlight=False)
    for warning in report.warnings:
        console.print(f"Note: {warning}", style="yellow", markup=False, highlight=False)


def _rows(report: Report) -> list[tuple[str, ...]]:
    dense, small, ratios = report.dense, report.compressed, report.ratios
    rows: list[tuple[str, ...]] = []
    if report.accuracy is not None:
        a = report.accuracy
        rows.append(
            (
                "accuracy",
                words.percent(a.dense.value),
                words.percent(a.compressed.value),
                f"{words.points(a.difference.value)} points ({words.interval(a.difference)})",
            )
        )
    if report.nll is not None:
        n = report.nll
        rows.append(
            (
                f"loss, {words.per(report)}",
                words.number(n.dense.value, 3),
                words.number(n.compressed.value, 3),
                f"{words.number(n.difference.value, 3)} ({words.interval(n.difference, 1, 3)})",
            )
        )
    if report.cosine is not None:
        c = report.cosine
        rows.append(("cosine to dense", "1.000", words.number(c.value, 3), words.interval(c, 1, 3)))
    for name, label in (("nonzero", "non-zero parameters"), ("params", "stored numbers")):
        values = (words.count(getattr(size, name)) for size in (dense, small))
        rows.append((label, *values, words.times(ratios.get(name))))
    rows.append(
        ("encoded", words.size(dense.bytes), words.size(small.bytes), words.times(ratios["bytes"]))
    )
    if "macs" in ratios:
        macs = (words.count(dense.macs), words.count(small.macs))
        rows.append(("multiplications", *macs, words.times(ratios["macs"])))
    if report.latency is not None:
        spreads = (report.latency.dense, report.latency.compressed)
        milliseconds = (f"{words.number(s.median, 2)} ms" for s in spreads)
        label = f"time per batch of {report.latency.batch}"
        rows.append((label, *milliseconds, words.times(report.latency.ratio.value)))
    return rows
