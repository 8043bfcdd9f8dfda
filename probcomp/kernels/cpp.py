"""The C++ kernel: compiled on request, cached, and absent where there is no compiler."""

import ctypes
import functools
import hashlib
import itertools
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.kernels.activations import ACTIVATION_CODES
from probcomp.kernels.blocks import BlockIndex
from probcomp.kernels.derived import derived
from probcomp.storage import replacing

_FOLDER = Path(__file__).parent / "csrc"
_SOURCE = _FOLDER / "block_linear.cpp"
_FLAGS = ["-O3", "-fopenmp", "-std=c++17", "-Wno-psabi", "-shared", "-fPIC"]
_ISA = ("portable", "AVX2", "AVX-512")
PANEL = 32
"""Outputs of a block row of a dense layer: 2 vectors of 16 leave registers for 12 rows of input."""
_library: ctypes.CDLL | None = None
_hidden = False


class _Layer(ctypes.Structure):
    """As in ``csrc/block_linear.cpp``."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("val", "crow", "col", "order", "bias")]
        + [(name, ctypes.c_int64) for name in ("N", "width", "R", "BN", "BK")]
        + [("act", ctypes.c_int32)]
    )


class Layer(NamedTuple):
    """A frozen weight as the kernel reads it, and the tensors that own its memory."""

    raw: _Layer
    held: tuple[Tensor, ...]
    slack: int = 0  # columns of the last block that may lie beyond the inputs


class Chain(NamedTuple):
    """Layers that run in one call, ready to be called often."""

    raw: ctypes.Array
    held: tuple[object, ...]
    width: int  # inputs, in whole blocks of the first layer
    outputs: int
    slack: int  # inputs may be fewer by this many


@functools.cache
def _name() -> str:
    """The build's name: it changes with the source and the flags, so a stale build is not used."""
    content = b"".join(path.read_bytes() for path in sorted(_FOLDER.iterdir()))
    return "probcomp_" + hashlib.sha256(content + " ".join(_FLAGS).encode()).hexdigest()[:12]


def _directory() -> Path:
    """Where builds are kept: PyTorch's extension folder if one is set, else the user's cache.

    A build is code that we run, so what is found there counts only if it is this user's own.
    """
    base = os.environ.get("TORCH_EXTENSIONS_DIR")
    if base:
        return Path(base) / _name()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "probcomp" / _name()


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer, size, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.probcomp_block_chain.argtypes = [
        pointer, flag, pointer, size, pointer, size, flag, flag,
    ]  # fmt: skip
    return library


def available() -> bool:
    """Whether the kernel is built (now or by an earlier process). Never compiles."""
    global _library
    if _hidden:
        return False
    if _library is None:
        path = _directory() / f"{_name()}.so"
        if path.is_file() and _own(path):
            _library = _load(path)
    return _library is not None


@contextmanager
def hidden() -> Iterator[None]:
    """What is decided meanwhile is decided as where no compiler is. To measure that, not to run."""
    global _hidden
    before, _hidden = _hidden, True
    try:
        yield
    finally:
        _hidden = before


def _own(path: Path) -> bool:
    """Whether no one but this user (or root) could have put the file where it is."""
    if not hasattr(os, "getuid"):
        return True  # Windows: the cache is in the user's profile
    states = [path.stat(), path.parent.stat()]
    return all(s.st_uid in (os.getuid(), 0) and not s.st_mode & 0o022 for s in states)


def _compiler() -> list[str]:
    """The command of the C++ compiler: ``CXX``, or the first one on the path."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in (named, ["c++"], ["g++"], ["clang++"]):
        if command and shutil.which(command[0]):
            return command
    raise InputError("the C++ kernel needs a C++ compiler on PATH; install g++ or clang")


def build() -> str:
    """Compile the kernel unless it is built, and return the instruction set that it will use.

    Takes a few seconds; the result is kept under ``TORCH_EXTENSIONS_DIR`` if that is set, else in
    the user's cache folder, and later processes find it there.

    Raises:
        InputError: There is no C++ compiler, or the build fails (with the compiler's message), or
            the folder may be written by others.
    """
    global _library
    if not available():
        path = _directory() / f"{_name()}.so"
        command = _compiler()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(0o700)
        except OSError as error:
            raise InputError(f"cannot build in {path.parent}: {error.strerror}") from error
        with replacing(path) as temporary:
            made = subprocess.run(
                [*command, *_FLAGS, str(_SOURCE), "-o", str(temporary)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if made.returncode:
                raise InputError(f"the C++ kernel did not build: {made.stderr.strip()}")
        path.chmod(0o700)  # whatever the umask: others' write permission would void the build
        _library = _load(path)
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


def block_layer(val: Tensor, at: BlockIndex, n: int) -> Layer:
    """The blocks of a frozen `BlockWeight` with ``n`` outputs. Kept."""
    _, bn, bk = val.shape
    width = (at.ccol.shape[0] - 1) * bk
    if not usable((bn, bk), val.dtype, val.device):
        raise InputError(
            "the C++ kernel is not built or does not fit: it takes float32 on a CPU and blocks "
            f"with BN a multiple of 16, got {val.dtype} on {val.device} with {bn}x{bk}. "
            "Build it with probcomp.kernels.cpp.build()."
        )

    def build() -> Layer:
        turned = val.detach().transpose(1, 2).contiguous()
        return _layer((turned, at.crow, at.col, at.row_order), n, width, bn, bk, slack=bk - 1)

    return derived(val, ("cpp", n, width), build)


def dense_layer(weight: Tensor) -> Layer:
    """A frozen dense weight ``[N, K]``, in panels of `PANEL` outputs. Kept.

    Raises:
        InputError: It is not float32 on a CPU.
    """
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise InputError(
            f"the C++ kernel takes float32 on a CPU, got {weight.dtype} on {weight.device}"
        )

    def build() -> Layer:
        n, k = weight.shape
        rows = -(-n // PANEL)
        padded = torch.nn.functional.pad(weight.detach(), (0, 0, 0, rows * PANEL - n))
        turned = padded.view(rows, PANEL, k).transpose(1, 2).contiguous()
        crow = torch.arange(rows + 1, dtype=torch.int32)
        return _layer((turned, crow, torch.zeros_like(crow), crow[:-1]), n, k, PANEL, k)

    return derived(weight, "cpp dense", build)


def _layer(held: tuple[Tensor, ...], n: int, width: int, bn: int, bk: int, slack: int = 0) -> Layer:
    pointers = (tensor.data_ptr() for tensor in held)
    raw = _Layer(*pointers, None, n, width, held[1].shape[0] - 1, bn, bk, 0)
    return Layer(raw, held, slack)


def chain(
    layers: Sequence[Layer], biases: Sequence[Tensor | None], activations: Sequence[str]
) -> Chain:
    """Layers one after another, each with a bias ``[N]`` and an activation by name.

    Raises:
        InputError: A bias is not float32 ``[N]`` on a CPU, or a layer does not read as many as the
            one before it gives.
    """
    for layer, bias in zip(layers, biases, strict=True):
        if bias is not None and not _is_bias(bias, layer.raw.N):
            raise InputError(
                f"a bias must be float32 [{layer.raw.N}] on a CPU, "
                f"got {bias.dtype} {list(bias.shape)} on {bias.device}"
            )
    for layer, reader in itertools.pairwise(layers):
        if not 0 <= reader.raw.width - layer.raw.N <= reader.slack:
            raise InputError(
                f"a layer reads {reader.raw.width} values, the one before gives {layer.raw.N}"
            )
    raw = (_Layer * len(layers))(*(layer.raw for layer in layers))
    added = [None if bias is None else bias.detach().contiguous() for bias in biases]
    for entry, bias, activation in zip(raw, added, activations, strict=True):
        entry.bias = None if bias is None else bias.data_ptr()
        entry.act = ACTIVATION_CODES[activation]
    return Chain(raw, (layers, added), raw[0].width, raw[-1].N, layers[0].slack)


def _is_bias(bias: Tensor, n: int) -> bool:
    on_cpu = bias.device.type == "cpu"
    return on_cpu and bias.dtype == torch.float32 and tuple(bias.shape) == (n,)


def run_chain(x: Tensor, layers: Chain, isa: int = -1) -> Tensor:
    """The last layer's output ``[M, N]`` for x ``[M, K]``, float32 on a CPU.

    Raises:
        InputError: The kernel is not built, or x does not fit the first layer.
    """
    if _library is None:
        raise InputError("the C++ kernel is not built: call probcomp.kernels.cpp.build()")
    missing = layers.width - x.shape[1]
    if x.dtype != torch.float32 or x.device.type != "cpu" or not 0 <= missing <= layers.slack:
        raise InputError(
            f"x must be float32 [M, {layers.width}] on a CPU, "
            f"got {x.dtype} {list(x.shape)} on {x.device}"
        )
    if missing:
        x = torch.nn.functional.pad(x, (0, missing))
    if x.stride(1) != 1:
        x = x.contiguous()
    y = x.new_empty(x.shape[0], layers.outputs)
    if not x.shape[0]:
        return y
    status = _library.probcomp_block_chain(
        layers.raw, len(layers.raw), x.data_ptr(), x.stride(0), y.data_ptr(), x.shape[0],
        torch.get_num_threads(), isa,
    )  # fmt: skip
    if status == 2:
        raise MemoryError("no memory for the hidden values of the C++ kernel")
    if status:
        raise InputError("the C++ kernel takes blocks with BN a multiple of 16")
    return y
