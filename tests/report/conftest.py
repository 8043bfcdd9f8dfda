import pytest

from probcomp.report import Report, render_page
from tests.report.sample import make_report


@pytest.fixture(scope="session")
def report() -> Report:
    return make_report()


@pytest.fixture(scope="session")
def page(report) -> str:
    return render_page(report)
