"""The interpreted tests, in a process that switches the interpreter on before Triton loads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECONDS = 280  # a bound for a busy machine; idle it is a tenth of that


MUTATIONS = HERE / "interpreted" / "test_mutations.py"


def interpreted(*arguments: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0"]
    done = subprocess.run(
        [*command, *arguments], cwd=HERE.parents[1], env=environment, capture_output=True,
        text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_the_interpreted_kernels_pass_in_their_own_process() -> None:
    folders = str(HERE / "interpreted"), str(HERE / "gpu")
    interpreted(*folders, f"--ignore={MUTATIONS}")


@pytest.mark.slow
def test_mistakes_in_kernels_are_caught() -> None:
    interpreted(str(MUTATIONS))
