"""The store: keys by content, whole files, nothing where nothing was written."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.regime.store import JsonRecords, Store, content_key


def test_keys_depend_on_content_and_not_on_order():
    assert content_key({"a": 1, "b": [2, 3]}) == content_key({"b": [2, 3], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})
    with pytest.raises(ValueError, match="JSON"):
        content_key({"a": float("nan")})


def test_records_come_back(tmp_path):
    records = JsonRecords(tmp_path / "deep" / "er")
    assert records.get("x") is None
    assert records.all() == {}
    records.put("x", {"v": 1})
    records.put("y", {"v": 2})
    assert records.get("x") == {"v": 1}
    assert records.all() == {"x": {"v": 1}, "y": {"v": 2}}
    assert not [p for p in records.folder.iterdir() if p.suffix != ".json"]


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InputError, match=r"x\.json"):
        JsonRecords(tmp_path).get("x")


def test_weights_come_back(tmp_path):
    store = Store(tmp_path)
    assert store.load_weights("dense", "a") is None
    store.save_weights({"w": torch.arange(3.0)}, "dense", "a")
    found = store.load_weights("dense", "a")
    assert found is not None
    assert torch.equal(found["w"], torch.arange(3.0))
