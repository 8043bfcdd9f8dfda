"""These files need a process of their own, with the interpreter switched on before Triton loads."""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """NumPy warns where a GPU just computes an infinity, as in a saturated sigmoid."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"))
        item.add_marker(pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"))
        item.add_marker(pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"))
