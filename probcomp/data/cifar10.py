"""CIFAR-10 from its published binary files, or from difference-coded planes."""

import lzma
from pathlib import Path

import numpy as np
import torch

from probcomp.data.dataset import Data
from probcomp.errors import InputError

CHANNEL_MEAN, CHANNEL_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Mean and deviation of each colour over the 50,000 training images, scaled to [0, 1]."""
SIDE = 32
_RECORD = 1 + 3 * SIDE * SIDE


def is_cifar10(directory: Path) -> bool:
    """Whether the directory holds CIFAR-10 in one of the two formats."""
    return any(directory.glob("data_batch_*.bin")) or any(directory.glob("train*_x.xz"))


def read_cifar10(directory: Path) -> Data:
    """Images [n, 3, 32, 32], RGB, standardised per colour by `CHANNEL_MEAN` and `CHANNEL_STD`.

    ``data_batch_*.bin`` with ``test_batch.bin``: the published binary version (Krizhevsky 2009),
    records of one label byte and 3,072 pixel bytes. Or ``train*_x.xz`` with ``train*_y.npy`` and
    ``test*_x.xz`` with ``test*_y.npy``: planes G, R - G, B - G, differenced along both image axes,
    all modulo 256, and LZMA-compressed; about half the bytes.

    Raises:
        InputError: a file is missing or damaged.
    """
    read = _read_records if any(directory.glob("data_batch_*.bin")) else _read_planes
    parts = []
    for prefix in ("data_batch_" if read is _read_records else "train", "test"):
        pixels, labels = read(directory, prefix)
        x = torch.from_numpy(pixels).float().div_(255)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CHANNEL_MEAN, CHANNEL_STD))
        parts.append((x.sub_(mean).div_(std), torch.from_numpy(labels)))
    return Data(parts[0], parts[1], "CIFAR-10", 10)


def _read_records(directory: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    raw = b"".join(path.read_bytes() for path in _files(directory, f"{prefix}*.bin"))
    if len(raw) % _RECORD:
        raise InputError(f"{directory}: {prefix}*.bin is not a whole number of {_RECORD} bytes")
    records = np.frombuffer(raw, np.uint8).reshape(-1, _RECORD)
    pixels = records[:, 1:].reshape(-1, 3, SIDE, SIDE).copy()
    return pixels, records[:, 0].astype(np.int64)


def _read_planes(directory: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = [], []
    for path in _files(directory, f"{prefix}*_x.xz"):
        try:
            raw = np.frombuffer(lzma.decompress(path.read_bytes()), np.uint8)
            target = np.load(path.with_name(path.name.replace("_x.xz", "_y.npy")))
        except (OSError, ValueError, lzma.LZMAError) as error:
            raise InputError(f"cannot read {path} and its labels: {error}") from error
        if raw.size != 3 * SIDE * SIDE * target.size:
            raise InputError(f"{path}: {raw.size} bytes do not fit {target.size} labels")
        planes = raw.reshape(3, -1, SIDE, SIDE)
        green, red, blue = np.cumsum(np.cumsum(planes, 2, np.uint8), 3, np.uint8)
        pixels.append(np.stack((red + green, green, blue + green), 1))
        labels.append(target.astype(np.int64))
    return np.concatenate(pixels), np.concatenate(labels)


def _files(directory: Path, pattern: str) -> list[Path]:
    found = sorted(directory.glob(pattern))
    if not found:
        raise InputError(f"{directory} lacks {pattern}")
    return found
