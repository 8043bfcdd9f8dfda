"""What importing the package may and may not pull in."""

import subprocess
import sys


def test_importing_the_kernels_loads_no_triton_and_compiles_nothing() -> None:
    code = (
        "import sys, probcomp.kernels as k; "
        "heavy = [m for m in ('triton', 'jax', 'transformers', 'setuptools') if m in sys.modules]; "
        "print(heavy, k.pack.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "pack"]
