"""Data sets in files: NumPy archives, and directories in MNIST's or CIFAR-10's formats."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from probcomp.data.cifar10 import is_cifar10, read_cifar10
from probcomp.data.dataset import Data, count_classes
from probcomp.data.idx import is_idx, read_idx_data
from probcomp.errors import InputError

FORMATS = (
    "an .npz file with x and y (and x_test, y_test), an .npz file of named inputs with labels (or "
    "either without targets), a directory of MNIST-style idx files, a directory of CIFAR-10 "
    "batches, or a text file (.txt, .md or .jsonl, plain or with .xz or .gz) for a model with a "
    "tokenizer"
)


def read_data(path: Path | str) -> Data:
    """Read a data set. Nothing is unpickled.

    ``.npz``: either ``x`` and ``y``, or keyword inputs of a model with ``labels``; targets may be
    absent for methods that need none. Held-out samples carry the same names with ``_test`` behind
    them, and are optional. Integer targets are classes,
    real ones are regression targets. Integer inputs stay integers, except uint8, which is read as
    images and scaled to [0, 1]. Nothing else is scaled.

    Directories: ``train-images-idx3-ubyte`` and so on, plain or gzipped; ``data_batch_*.bin`` and
    ``test_batch.bin``. These are standardised by the training part.

    Raises:
        InputError: a missing, damaged or unknown file, or data that fail the checks of `Data`.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no data at {path}: no such file or directory")
    if path.is_dir():
        if is_idx(path):
            return read_idx_data(path)
        if is_cifar10(path):
            return read_cifar10(path)
        raise InputError(f"no data found in {path}; expected {FORMATS}")
    if path.suffix != ".npz":
        raise InputError(f"{path} is not a format that is known; expected {FORMATS}")
    return _read_archive(path)


def _read_archive(path: Path) -> Data:
    tensors: dict[str, Tensor] = {}
    try:
        # Opened here, since numpy leaves the file open when the archive is damaged.
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError(f"{path} is not a readable .npz file; write it by numpy.savez")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            for key in archive.files:
                tensors[key] = _tensor(archive[key], f"{path.name}: {key!r}")
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error):
            raise InputError(
                f"{path.name} holds Python objects, which are not read; save plain arrays"
            ) from error
        raise InputError(f"{path} is not a readable .npz file: {error}") from error
    test = {k.removesuffix("_test"): v for k, v in tensors.items() if k.endswith("_test")}
    train = {k: v for k, v in tensors.items() if not k.endswith("_test")}
    plain = "x" in train
    if not train or (plain and not set(train) <= {"x", "y"}) or set(train) == {"y"}:
        raise InputError(f"{path.name} holds {', '.join(tensors) or 'nothing'}; expected {FORMATS}")
    if test and set(test) != set(train):
        raise InputError(
            f"{path.name}: training has {', '.join(train)}, but test has {', '.join(test)} (_test)"
        )
    target = train.get("y" if plain else "labels")
    classes = 0 if target is None else count_classes(target)
    if plain:
        names = [name for name in ("x", "y") if name in train]
        held = tuple(test[name] for name in names) if test else None
        return Data(tuple(train[name] for name in names), held, path.stem, classes)
    ordered = {name: test[name] for name in train} if test else None
    return Data(train, ordered, path.stem, classes)


def _tensor(array: np.ndarray, where: str) -> Tensor:
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float32))
    if array.dtype == np.uint8 and array.ndim > 1:
        return torch.from_numpy(array.astype(np.float32) / 255)
    if array.dtype.kind in "iu":
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind == "b":
        return torch.from_numpy(array)
    raise InputError(f"{where} has type {array.dtype}; expected numbers")
