"""``probcomp doctor``: what this machine has, and what that means for probcomp."""

import dataclasses
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import typer

from probcomp.cli.options import Json, NoSeed, OutFile, print_json, quiet_stdout, save_json

TORCH_FROM, TORCH_BELOW = (2, 11), (2, 14)
LIBRARIES = ("numpy", "pyro-ppl", "jax", "numpyro", "transformers", "arviz", "safetensors")
COMPILERS = ("c++", "g++", "clang++")
BYTES = 60
"""Rough memory of one weight while its posterior is trained: mean, deviation and their gradients
and Adam moments (32 bytes), log-odds, messages and the dense model."""


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        value: what was found.
        status: ``ok``; ``note`` if something is slower or missing but works; ``bad`` if not.
        meaning: what it means for the user.
    """

    name: str
    value: str
    status: str
    meaning: str


def doctor(json: Json = False, out: OutFile = None, seed: NoSeed = 0) -> None:
    """Look at this machine and say what probcomp can do on it. Exit status 1 if it cannot run."""
    with quiet_stdout():
        checks = examine()
    records = [dataclasses.asdict(check) for check in checks]
    save_json(records, out)
    if json:
        print_json(records)
    else:
        _print(checks)
    if any(check.status == "bad" for check in checks):
        raise typer.Exit(1)


def examine() -> list[Check]:
    """All checks, in the order in which they are shown."""
    return [
        _python(),
        _torch(),
        *(_library(name) for name in LIBRARIES),
        *_processor(),
        _gpu(),
        _triton(),
        _compiler(),
        _kernel(),
        _memory(),
        _disk(Path.cwd(), "current directory", "results are written below it by default"),
        _disk(Path(tempfile.gettempdir()), "temporary directory", "compiled kernels need it"),
    ]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> Check:
    fits = sys.version_info >= (3, 11)
    meaning = "supported" if fits else "probcomp needs 3.11 or newer"
    return Check("python", platform.python_version(), "ok" if fits else "bad", meaning)


def _torch() -> Check:
    try:
        import torch
    except Exception as error:  # a broken install fails in many ways
        return Check("torch", f"does not import: {error}", "bad", "install torch again")
    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    span = f"{'.'.join(map(str, TORCH_FROM))} to below {'.'.join(map(str, TORCH_BELOW))}"
    if TORCH_FROM <= found < TORCH_BELOW:
        return Check("torch", torch.__version__, "ok", f"in the tested range, {span}")
    return Check("torch", torch.__version__, "note", f"outside the tested range, {span}")


def _library(name: str) -> Check:
    version = _version(name)
    if version is None:
        return Check(name, "not installed", "bad", f"run: pip install {name}")
    return Check(name, version, "ok", "installed")


def _processor() -> list[Check]:
    import torch

    best = torch.backends.cpu.get_cpu_capability()
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")
    fast = [f for f in known if f in _flags()]
    wide = "AVX" in best or "SVE" in best or "asimd" in fast
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    threads = torch.get_num_threads()
    text = f"{threads} of {cores} cores"
    if threads == cores:
        usage = Check("threads", text, "ok", "torch uses all cores it may use")
    elif threads < cores:
        usage = Check("threads", text, "note", "set OMP_NUM_THREADS to use more cores")
    else:
        usage = Check("threads", text, "note", "more threads than cores: slower; OMP_NUM_THREADS")
    meaning = "vector units are used" if wide else "no wide vector units: expect slow training"
    if any("bf16" in f for f in fast):
        meaning += "; bfloat16 in hardware: pack(..., dtype=torch.bfloat16) multiplies faster"
    found = f"{platform.machine()}, torch uses {best}" + (f" ({', '.join(fast)})" if fast else "")
    return [Check("processor", found, "ok" if wide else "note", meaning), usage]


def _flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    keys = ("flags", "Features")
    return {f for line in lines if line.startswith(keys) for f in line.partition(":")[2].split()}


def _gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        kind = "ROCm" if torch.version.hip else "CUDA"
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Check("gpu", f"{names} ({kind})", "ok", "move the model there; the work follows it")
    if torch.backends.mps.is_available():
        return Check("gpu", "Apple GPU", "note", "not tested; everything runs on the processor")
    return Check("gpu", "none", "note", "everything runs on the processor")


def _triton() -> Check:
    import torch

    version = _version("triton")
    if version is None:
        return Check("triton", "not installed", "note", "reference kernels are used instead")
    if torch.cuda.is_available():
        return Check("triton", version, "ok", "GPU kernels can be compiled")
    return Check(
        "triton", version, "note",
        "no GPU to compile for: processor kernels are used; TRITON_INTERPRET=1 runs them for tests",
    )  # fmt: skip


def _compiler() -> Check:
    found = [name for name in COMPILERS if shutil.which(name)]
    if found:
        return Check("compiler", ", ".join(found), "ok", "kernels and torch.compile can be built")
    return Check(
        "compiler", "none", "note", "kernels fall back to plain torch; install gcc or clang"
    )


def _kernel() -> Check:
    from probcomp.kernels import cpp

    if cpp.available():
        return Check(
            "C++ kernel", cpp.instruction_set(), "ok", "packed layers are at their fastest"
        )
    return Check(
        "C++ kernel", "not built", "note",
        'packed layers run in plain torch; build: python -c "from probcomp.kernels import cpp; '
        'cpp.build()"',
    )  # fmt: skip


def _memory() -> Check:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return Check("memory", "unknown", "note", f"training needs about {BYTES} bytes per weight")
    sizes = {line.split(":")[0]: int(line.split()[1]) / 2**20 for line in lines if "kB" in line}
    total, free = sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemFree"])
    millions = free * 2**30 / BYTES / 1e6
    value = f"{free:.1f} of {total:.1f} GiB available"
    meaning = f"enough to train a posterior over roughly {millions:.0f} million weights"
    return Check("memory", value, "ok" if free >= 1 else "note", meaning)


def _disk(place: Path, name: str, use: str) -> Check:
    try:
        with tempfile.NamedTemporaryFile(dir=place) as file:
            file.write(b"\0" * 4096)
            file.flush()
        free = shutil.disk_usage(place).free / 2**30
    except OSError as error:
        return Check(name, f"{place}: {error.strerror}", "note", f"{use}; give --out elsewhere")
    status = "ok" if free >= 0.5 else "note"
    return Check(name, f"{place}, {free:.1f} GiB free", status, f"writable; {use}")


def _print(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    marks = {"ok": ("ok", "green"), "note": ("note", "yellow"), "bad": ("bad", "bold red")}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for check in checks:
        word, style = marks[check.status]
        found = Text.assemble(check.value, "\n", (check.meaning, "dim"))
        if check.meaning == "installed":
            found = Text(check.value)
        table.add_row(Text(word, style), Text(check.name), found)
    Console().print(table)
