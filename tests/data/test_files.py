from pathlib import Path

import numpy as np
import pytest
import torch

from probcomp.data import read_data
from probcomp.errors import InputError

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(10, 4)), RNG.integers(0, 3, 10)


def archive(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path / "set.npz", **arrays)
    return path / "set.npz"


def test_reads_x_and_y(tmp_path) -> None:
    data = read_data(archive(tmp_path, x=X, y=Y, x_test=X[:3], y_test=Y[:3] * 0))
    assert data.name == "set"
    assert data.train[0].dtype == torch.float32
    np.testing.assert_array_equal(data.train[0], X.astype(np.float32))
    np.testing.assert_array_equal(data.train[1], Y)
    assert data.test[1].tolist() == [0, 0, 0]
    assert data.classes == Y.max() + 1


def test_reads_named_inputs(tmp_path) -> None:
    ids = RNG.integers(0, 9, (10, 5))
    data = read_data(archive(tmp_path, labels=Y, input_ids=ids, labels_test=Y, input_ids_test=ids))
    assert list(data.train) == list(data.test) == ["labels", "input_ids"]
    assert data.train["input_ids"].dtype == torch.int64


def test_real_targets_and_bytes(tmp_path) -> None:
    data = read_data(archive(tmp_path, x=np.full((2, 1, 2, 2), 255, np.uint8), y=X[:2, 0]))
    assert data.classes == 0
    assert data.train[0].max() == 1.0
    assert data.test is None


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"y": Y}, "expected an .npz"),
        ({"x": X, "y": Y, "z": Y}, "expected an .npz"),
        ({"x": X, "y": Y[:4]}, "equally many"),
        ({"x": np.where(X > 1, np.nan, X), "y": Y}, "NaN"),
        ({"x": X[:0], "y": Y[:0]}, "no samples"),
        ({"x": X, "y": Y - 1}, "labels run from -1"),
        ({"x": X, "y": Y, "x_test": X}, "x_test|_test"),
        ({"x": X.astype(str), "y": Y}, "expected numbers"),
        ({"x": X.astype(object), "y": Y}, "Python objects"),
    ],
)
def test_refuses_bad_archives(tmp_path, arrays, says) -> None:
    with pytest.raises(InputError, match=says):
        read_data(archive(tmp_path, **arrays))


def test_targets_may_be_absent(tmp_path) -> None:
    data = read_data(archive(tmp_path, x=X, x_test=X))
    assert [len(part) for part in (data.train, data.test)] == [1, 1]
    assert data.classes == 0
    named = read_data(archive(tmp_path, input_ids=Y))
    assert list(named.train) == ["input_ids"]
    assert named.test is None


def test_refuses_what_is_no_data(tmp_path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_data(tmp_path / "absent.npz")
    with pytest.raises(InputError, match="no data found"):
        read_data(tmp_path)
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(InputError, match="not a format"):
        read_data(tmp_path / "a.csv")
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(InputError, match="not a readable"):
        read_data(tmp_path / "one.npz")
    whole = archive(tmp_path, x=X, y=Y).read_bytes()
    for broken in (b"", b"not a zip", whole[:-40], whole[: len(whole) // 2]):
        (tmp_path / "broken.npz").write_bytes(broken)
        with pytest.raises(InputError, match="broken"):
            read_data(tmp_path / "broken.npz")
