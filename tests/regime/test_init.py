"""The names of the package, and what importing them costs."""

import subprocess
import sys

import pytest

import probcomp.regime


def test_every_name_is_there():
    for name in probcomp.regime.__all__:
        assert getattr(probcomp.regime, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        probcomp.regime.nothing  # noqa: B018


def test_past_runs_need_neither_torch_nor_jax_to_be_read():
    code = "import sys, probcomp.regime; print([m for m in ('torch', 'jax') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
