import io

from rich.console import Console

from probcomp.evaluation import Size
from probcomp.report import Report, print_report, words


def printed(report: Report) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_report(report, console)
    return console.file.getvalue()


def test_shows_the_numbers_of_the_report(report) -> None:
    text = printed(report)
    assert words.headline(report) in text
    assert words.budget_sentence(report) in text
    assert report.warnings[0] in text
    rows = {line[:24].strip(): line for line in text.splitlines()}
    assert words.percent(report.accuracy.compressed.value) in rows["accuracy"]
    assert words.count(report.compressed.nonzero) in rows["non-zero parameters"]
    assert words.times(report.ratios["params"]) in rows["stored numbers"]
    assert words.size(report.dense.bytes) in rows["encoded"]


def test_markup_in_names_is_not_obeyed() -> None:
    size = Size(2, 2, 8)
    report = Report(model="m", method="x", seed=0, dense=size, compressed=size)
    assert "[bold]w[/bold]" in printed(report.replace(warnings=("[bold]w[/bold]",)))
