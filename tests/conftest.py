"""Settings for the whole suite: one thread, no hub, and optional real data."""

import os
from pathlib import Path

# Before torch or jax is imported anywhere: tests run side by side on few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
settings.register_profile("default", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("default")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The directory of real data sets and pretrained weights; tests skip where it is absent."""
    path = os.environ.get("PROBCOMP_DATA")
    if not path or not Path(path).is_dir():
        pytest.skip("set PROBCOMP_DATA to a directory with the real data sets")
    return Path(path)
