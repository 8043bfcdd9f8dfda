"""Compile a kernel for a GPU that is not here, and look at what came out.

A compile that succeeds can still be a kernel that never launches (shared memory), crawls (spills)
or waits on memory (no pipelining), so the result carries what a check needs.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_86": GPUTarget("cuda", 86, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED_LIMIT = {
    "sm_80": 166912, "sm_86": 101376, "sm_90": 232448, "sm_100": 232448, "gfx942": 65536,
}  # fmt: skip
MATRIX = re.compile(r"wgmma\.mma_async|mma\.sync|tcgen05\.mma|v_mfma")


@dataclass(frozen=True)
class Compiled:
    """A binary and what to check of it."""

    target: str
    assembly: str
    binary_bytes: int
    shared: int
    registers: int | None  # None where no disassembler is bundled (AMD)
    stack: int | None

    def count(self, pattern: str) -> int:
        """Number of matches of a regular expression in the assembly."""
        return len(re.findall(pattern, self.assembly))

    @property
    def matrix_instructions(self) -> set[str]:
        """The kinds of matrix instruction in use."""
        return set(MATRIX.findall(self.assembly))

    @property
    def atomics(self) -> int:
        """Atomic and reduction instructions on memory."""
        return self.count(r"\b(?:atom|red)\.(?:global|shared|async)|global_atomic|ds_add_")


def compile_kernel(
    kernel: Any,
    target: str,
    types: dict[str, str],
    constants: dict[str, Any],
    *,
    warps: int,
    stages: int,
    unaligned: Iterable[str] = (),
) -> Compiled:
    """Compile for a target in `TARGETS`, with no GPU and no CUDA installation.

    Args:
        kernel: A ``@triton.jit`` function, not interpreted.
        target: A name in `TARGETS`.
        types: Triton type of each run-time argument, as in ``{"x_ptr": "*bf16", "M": "i32"}``.
        constants: Value of each ``constexpr`` argument.
        warps, stages: Launch options.
        unaligned: Run-time arguments not known to be multiples of 16. The others are promised to
            be, as the JIT promises where it sees such a value.
    """
    names = list(kernel.arg_names)
    signature = {name: types.get(name, "constexpr") for name in names}
    whole = set(unaligned) | {name for name, kind in types.items() if kind.startswith("fp")}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if name in types and name not in whole
    }
    source = ASTSource(kernel, signature, constants, aligned)
    flags = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    built = triton.compile(source, target=TARGETS[target], options=flags)
    nvidia = TARGETS[target].backend == "cuda"
    binary = built.asm["cubin" if nvidia else "hsaco"]
    registers, stack = _resources(binary) if nvidia else (None, None)
    return Compiled(
        target=target,
        assembly=built.asm["ptx" if nvidia else "amdgcn"],
        binary_bytes=len(binary),
        shared=built.metadata.shared,
        registers=registers,
        stack=stack,
    )


def _resources(cubin: bytes) -> tuple[int | None, int | None]:
    """Registers and stack bytes of a thread, from the disassembler in Triton's wheel."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.is_file():
        return None, None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [str(tool), "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (None, None)
