import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from probcomp.data import read_data
from probcomp.data.cifar10 import CHANNEL_MEAN, CHANNEL_STD
from probcomp.errors import InputError

RNG = np.random.default_rng(2)
PIXELS = RNG.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 1])


def binary(directory: Path) -> None:
    for name, rows in (("data_batch_1", [0]), ("data_batch_2", [1, 2]), ("test_batch", [3])):
        records = [bytes([LABELS[r]]) + PIXELS[r].tobytes() for r in rows]
        (directory / f"{name}.bin").write_bytes(b"".join(records))


def planes(directory: Path) -> None:
    for name, rows in (("train0", [0]), ("train1", [1, 2]), ("test_dev", [3])):
        red, green, blue = PIXELS[rows].transpose(1, 0, 2, 3)
        stack = np.stack((green, red - green, blue - green))
        for axis in (3, 2):
            stack = np.diff(stack, axis=axis, prepend=np.uint8(0))
        (directory / f"{name}_x.xz").write_bytes(lzma.compress(stack.tobytes()))
        np.save(directory / f"{name}_y.npy", LABELS[rows].astype(np.uint8))


@pytest.mark.parametrize("write", [binary, planes])
def test_both_formats_give_the_pixels(tmp_path, write) -> None:
    write(tmp_path)
    data = read_data(tmp_path)
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (CHANNEL_MEAN, CHANNEL_STD))
    expected = (PIXELS / 255 - mean) / std
    np.testing.assert_allclose(torch.cat((data.train[0], data.test[0])), expected, atol=1e-5)
    assert data.train[1].tolist() == [3, 0, 9]
    assert data.test[1].tolist() == [1]


def test_refuses_damage(tmp_path) -> None:
    binary(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(b"short")
    with pytest.raises(InputError, match="whole number"):
        read_data(tmp_path)
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(InputError, match="lacks"):
        read_data(tmp_path)


def test_refuses_damaged_planes(tmp_path) -> None:
    planes(tmp_path)
    np.save(tmp_path / "train1_y.npy", LABELS)
    with pytest.raises(InputError, match="do not fit 4 labels"):
        read_data(tmp_path)
    (tmp_path / "train1_y.npy").unlink()
    with pytest.raises(InputError, match="cannot read"):
        read_data(tmp_path)
