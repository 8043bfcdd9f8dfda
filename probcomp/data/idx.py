"""The idx format of MNIST and Fashion-MNIST, plain or gzipped."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from probcomp.data.dataset import Data, count_classes, standardise
from probcomp.errors import InputError

_FILES = {
    "x": "train-images-idx3-ubyte",
    "y": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def is_idx(directory: Path) -> bool:
    """Whether any of the four files is there."""
    return any(_find(directory, name) for name in _FILES.values())


def read_idx_data(directory: Path) -> Data:
    """Images [n, 1, height, width], standardised by the mean and deviation of training pixels.

    Raises:
        InputError: a file is missing or damaged.
    """
    found = {key: _find(directory, name) for key, name in _FILES.items()}
    missing = [_FILES[key] for key, path in found.items() if path is None]
    if missing:
        raise InputError(f"{directory} lacks {', '.join(missing)} (plain or .gz)")
    arrays = {key: read_idx(path) for key, path in found.items() if path is not None}
    for key, array in arrays.items():
        expected = 3 if key.startswith("x") else 1
        if array.ndim != expected:
            raise InputError(f"{found[key]}: expected {expected} dimensions, got {array.shape}")
    x, x_test = (torch.from_numpy(arrays[k]).float()[:, None] / 255 for k in ("x", "x_test"))
    y, y_test = (torch.from_numpy(arrays[k]).long() for k in ("y", "y_test"))
    x, x_test = standardise(x, x_test, dims=(0, 1, 2, 3))
    return Data((x, y), (x_test, y_test), directory.resolve().name, count_classes(y))


def read_idx(path: Path) -> np.ndarray:
    """One idx file of unsigned bytes.

    The format: two zero bytes, 0x08 for unsigned bytes, the number of dimensions, each dimension as
    a big-endian 32-bit integer, then the values in row-major order.

    Raises:
        InputError: not such a file, or cut short.
    """
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise InputError(f"{path} is not an idx file of unsigned bytes")
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise InputError(f"{path} is cut short in its header")
    shape = struct.unpack(f">{raw[3]}I", raw[4:start])
    if len(raw) - start != math.prod(shape):
        raise InputError(
            f"{path}: the header promises {shape}, {math.prod(shape)} bytes; "
            f"{len(raw) - start} bytes follow"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()


def _find(directory: Path, name: str) -> Path | None:
    # Some mirrors write the dot of "train-images.idx3-ubyte".
    spellings = (name, name.replace("-idx", ".idx"))
    choices = (directory / f"{s}{end}" for s in spellings for end in ("", ".gz"))
    return next((path for path in choices if path.is_file()), None)
