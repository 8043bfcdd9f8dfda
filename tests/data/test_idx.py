import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from probcomp.data import read_data
from probcomp.data.idx import read_idx
from probcomp.errors import InputError


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def fill(directory: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (6, 5, 4)),
        "train-labels-idx1-ubyte": np.arange(6) % 3,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (3, 5, 4)),
        "t10k-labels-idx1-ubyte": np.arange(3),
    }
    for i, (name, array) in enumerate(arrays.items()):  # plain and gzipped, mixed
        if i % 2:
            (directory / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (directory / name).write_bytes(idx(array))
    return arrays


def test_reads_plain_and_gzipped(tmp_path) -> None:
    arrays = fill(tmp_path)
    data = read_data(tmp_path)
    pixels = arrays["train-images-idx3-ubyte"]
    expected = (pixels - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(data.train[0].squeeze(1), expected, rtol=1e-4, atol=1e-5)
    held = (arrays["t10k-images-idx3-ubyte"] - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(data.test[0].squeeze(1), held, rtol=1e-4, atol=1e-5)
    assert data.train[1].tolist() == [0, 1, 2, 0, 1, 2]
    assert data.name == tmp_path.name


def test_names_what_is_missing(tmp_path) -> None:
    fill(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match="lacks t10k-labels"):
        read_data(tmp_path)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not an idx"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01a", "not an idx"),
        (b"\x00\x00\x08\x03\x00\x00", "cut short"),
        (idx(np.zeros((2, 3)))[:-1], "the header promises"),
        (idx(np.zeros((2, 3))) + b"x", "the header promises"),
    ],
)
def test_refuses_damage(tmp_path, raw, says) -> None:
    (tmp_path / "file").write_bytes(raw)
    with pytest.raises(InputError, match=says):
        read_idx(tmp_path / "file")


def test_refuses_damaged_gzip_and_wrong_rank(tmp_path) -> None:
    (tmp_path / "file.gz").write_bytes(gzip.compress(idx(np.zeros(9)))[:-6])
    with pytest.raises(InputError, match="cannot read"):
        read_idx(tmp_path / "file.gz")
    fill(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros(6)))
    with pytest.raises(InputError, match="expected 3 dimensions"):
        read_data(tmp_path)


def test_real_fashion_mnist(real_data) -> None:
    data = read_data(real_data / "fashion_mnist")
    assert data.train[0].shape == (60_000, 1, 28, 28)
    assert data.test[1].bincount().tolist() == [1000] * 10
