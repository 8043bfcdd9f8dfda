"""The script for a machine with a GPU, run interpreted at toy sizes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from probcomp.storage import read_json

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kernels_gpu.py"
KERNELS = {
    "block_linear", "decode_stats", "chain", "gated_mlp", "two_of_four", "reparameterised",
    "attention",
}  # fmt: skip


def run(out: Path, *flags: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(out), *flags], env={**os.environ, **extra},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_every_stage_runs_interpreted(tmp_path) -> None:
    out = tmp_path / "result.json"
    done = run(out, "--stand-in", TRITON_INTERPRET="1", TRITON_DEFAULT_FP_FUSION="1")
    assert done.returncode == 0, done.stderr[-3000:]
    result = read_json(out)
    assert result["tests"]["passed"]
    assert result["tests"]["sanitizer"]  # a path, or that it was not run
    assert {"ceilings", "blksprs", "table_of_winners"} <= set(result)
    assert read_json(result["table_of_winners"])["tiles"]
    assert {row["kernel"] for row in result["rows"]} == KERNELS
    for row in result["rows"]:
        assert row["us"]["triton"] > 0
        assert not row["failed"]


def test_without_a_gpu_it_says_so_in_one_line(tmp_path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = run(tmp_path / "result.json")
    assert done.returncode == 1
    assert done.stderr.strip().startswith("error: no GPU")
    assert not (tmp_path / "result.json").exists()
