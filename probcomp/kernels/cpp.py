"""The C++ block kernel: compiled on request, cached, and absent where there is no compiler."""

import ctypes
import functools
import hashlib
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.kernels.derived import derived

_SOURCE = Path(__file__).parent / "csrc" / "block_linear.cpp"
_FLAGS = ["-O3", "-fopenmp", "-std=c++17", "-Wno-psabi"]
_ISA = ("portable", "AVX2", "AVX-512")
_library: ctypes.CDLL | None = None


@functools.cache
def _name() -> str:
    """The build's name: it changes with the source and the flags, so a stale build is not used."""
    content = _SOURCE.read_bytes() + " ".join(_FLAGS).encode()
    return "probcomp_block_linear_" + hashlib.sha256(content).hexdigest()[:12]


def _directory() -> Path:
    """Where builds are kept: PyTorch's extension folder if one is set, else the user's cache."""
    base = os.environ.get("TORCH_EXTENSIONS_DIR")
    if base:
        return Path(base) / _name()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "probcomp" / _name()


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointers, sizes, flags = [ctypes.c_void_p] * 7, [ctypes.c_int64] * 6, [ctypes.c_int] * 3
    library.probcomp_block_linear.argtypes = [*pointers, *sizes, *flags]
    return library


def available() -> bool:
    """Whether the kernel is built (now or by an earlier process). Never compiles."""
    global _library
    if _library is None:
        path = _directory() / f"{_name()}.so"
        if path.is_file():
            _library = _load(path)
    return _library is not None


def build() -> str:
    """Compile the kernel unless it is built, and return the instruction set that it will use.

    Takes a few seconds; the result is kept under ``TORCH_EXTENSIONS_DIR`` if that is set, else in
    the user's cache folder, and later processes find it there.

    Raises:
        InputError: There is no C++ compiler, no ninja, or the build fails.
    """
    global _library
    if not available():
        from torch.utils.cpp_extension import is_ninja_available, load

        if shutil.which("c++") is None and shutil.which("g++") is None:
            raise InputError("the C++ kernel needs a C++ compiler on PATH; install g++ or clang")
        if not is_ninja_available():
            raise InputError("the C++ kernel needs ninja: pip install ninja")
        folder = _directory()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            load(
                _name(),
                [str(_SOURCE)],
                extra_cflags=_FLAGS,
                build_directory=str(folder),
                is_python_module=False,
            )
        except (RuntimeError, OSError) as error:
            raise InputError(f"the C++ kernel did not build: {error}") from error
        _library = _load(folder / f"{_name()}.so")
        from probcomp.kernels.dispatch import forget_choices

        forget_choices()
    return instruction_set()


def instruction_set() -> str:
    """The instruction set of the built kernel on this machine, or ``"not built"``."""
    if not available() or _library is None:
        return "not built"
    return _ISA[_library.probcomp_isa()]


def usable(block: tuple[int, int], dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the built kernel runs these blocks: float32 on a CPU, BN a multiple of 16."""
    right = device.type == "cpu" and dtype == torch.float32 and block[0] % 16 == 0
    return right and available()


def cpp_forward(
    x: Tensor,
    val: Tensor,
    crow: Tensor,
    col: Tensor,
    row_order: Tensor,
    bias: Tensor | None,
    n: int,
    width: int,
    relu: bool = False,
    isa: int = -1,
) -> Tensor:
    """``x W^T + b`` by the C++ kernel; ``width`` is K padded to whole blocks. Frozen weights."""
    _, bn, bk = val.shape
    if not usable((bn, bk), val.dtype, val.device) or _library is None:
        raise InputError(
            "the C++ kernel is not built or does not fit: it takes float32 on a CPU and blocks "
            f"with BN a multiple of 16, got {val.dtype} on {val.device} with {bn}x{bk}. "
            "Build it with probcomp.kernels.cpp.build()."
        )
    turned = derived(val, "cpp", lambda: val.detach().transpose(1, 2).contiguous())
    if x.shape[1] != width:
        x = torch.nn.functional.pad(x, (0, width - x.shape[1]))
    x = x.contiguous()
    y = x.new_empty(x.shape[0], n)
    held = (x, turned, crow, col, row_order, bias, y)
    status = _library.probcomp_block_linear(
        *(None if tensor is None else tensor.data_ptr() for tensor in held),
        *(x.shape[0], n, width, crow.shape[0] - 1, bn, bk),
        *(int(relu), torch.get_num_threads(), isa),
    )
    if status:
        raise InputError(f"the C++ kernel refused blocks of {bn}x{bk}")
    return y
