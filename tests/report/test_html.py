import re
from html.parser import HTMLParser

import pytest

from probcomp.evaluation import Size
from probcomp.report import Report, html, render_page, words, write_page

VOID = {"meta", "img", "br"}
MINIMAL = Report(model="m", method="x", seed=7, dense=Size(9, 9, 36), compressed=Size(3, 3, 12))


class Page(HTMLParser):
    """Checks nesting, and collects addresses, text and section titles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.missing_alt = 0
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]
        self.missing_alt += tag == "img" and not values.get("alt")
        assert tag not in ("script", "link", "iframe", "object", "base")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def test_page_needs_nothing_else(page) -> None:
    text, page = page, Page(page)
    assert len(page.addresses) > 12
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert page.missing_alt == 0
    assert "url(" not in text
    assert "@import" not in text


def test_page_begins_with_the_answer_and_shows_the_numbers(report, page) -> None:
    page = Page(page)
    normal = page.text.replace("\u00a0", " ")
    for text in (
        words.headline(report),
        words.explanation(report),
        words.budget_sentence(report),
        words.regularity_sentence(report.regularity),
        report.command,
        *report.warnings,
        *(layer.name for layer in report.layers),
        words.count(report.compressed.nonzero),
        words.size(report.compressed.bytes),
        words.times(report.ratios["macs"]),
    ):
        assert " ".join(text.replace("\u00a0", " ").split()) in normal
    headline = normal.index(words.headline(report).replace("\u00a0", " "))
    assert headline < normal.index("Budget.") < normal.index("Is it as good?")


def test_equal_reports_give_equal_pages(report, page) -> None:
    assert render_page(report) == page


def test_words_from_outside_are_escaped() -> None:
    nasty = "<script>alert(1)</script>&\"'"
    changed = MINIMAL.replace(model=nasty, command=nasty, warnings=(nasty,), data=nasty)
    page = Page(render_page(changed))
    assert page.text.count("alert(1)") == 6  # title, top line, warning, command, data twice


def test_a_report_without_measurements_is_a_page_too() -> None:
    page = Page(render_page(MINIMAL))
    assert "3.00× fewer non-zero parameters." in page.text
    assert "Is it as good?" not in page.text
    assert "Budget" not in page.text
    assert re.search(r"seed\s+7", page.text)


def test_long_reports_say_what_they_leave_out(report, monkeypatch) -> None:
    monkeypatch.setattr(html, "PICTURES", 1)
    many = MINIMAL.replace(
        inclusion=report.inclusion * 9, pictures=report.pictures * 5, layers=report.layers * 20
    )
    text = Page(render_page(many)).text
    assert "26 more histograms are not shown" in text
    assert "14 more mask pictures are not shown" in text
    assert "36 more layers are not shown" in text


def test_writes_a_file(tmp_path) -> None:
    write_page(MINIMAL, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_page(MINIMAL)


def test_scores_are_not_called_probabilities(report, page) -> None:
    assert "inclusion score" in page
    assert "probability" not in page
    calibrated = render_page(report.replace(calibrated=True))
    assert "inclusion probability" in calibrated
    assert "The inclusion score of each unit" in calibrated  # units are not checked
    assert "inclusion score" not in render_page(report.replace(calibrated=True, units=()))


def test_the_file_and_the_prediction_have_their_sections(report, page) -> None:
    text = Page(page).text.replace("\u00a0", " ")
    assert words.coded_sentence(report).replace("\u00a0", " ") in text
    assert words.prediction_sentence(report) in text
    shares = html._shares(report)
    assert sum(share for *_, share in shares) == pytest.approx(1)
    assert [row.name for row in report.coded.tensors] == [
        row.name for row in map(html._cost, report.coded.tensors)
    ]
    assert "What does the file hold?" not in render_page(report.replace(coded=None))


def test_layers_that_were_timed_packed_are_shown_with_their_times(report, page) -> None:
    text = Page(page).text
    assert "Which layers run packed?" in text
    assert "fc1 blocks 10.0 12.0 128 2.50× yes" in text
    assert "Which layers run packed?" not in render_page(report.replace(packed=()))
