import pytest
import torch

from probcomp.errors import InputError
from probcomp.storage import read_json, read_tensors, replacing, write_json, write_tensors


def test_a_failure_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"x": float("nan")})

    def stopped_half_way():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stopped_half_way()
    assert read_json(path) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_files_have_ordinary_modes(tmp_path):
    write_json(tmp_path / "ours.json", {})
    (tmp_path / "other.json").write_text("{}")
    assert (tmp_path / "ours.json").stat().st_mode == (tmp_path / "other.json").stat().st_mode


def test_tensors_with_shared_storage(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    write_tensors(tmp_path / "t.safetensors", {"a": base, "b": base.t(), "c": base[0]})
    read = read_tensors(tmp_path / "t.safetensors")
    assert torch.equal(read["a"], base)
    assert torch.equal(read["b"], base.t())
    assert torch.equal(read["c"], base[0])


def test_errors_name_the_file(tmp_path):
    (tmp_path / "bad").write_text("{")
    with pytest.raises(InputError, match=r"bad is not valid JSON"):
        read_json(tmp_path / "bad")
    with pytest.raises(InputError, match=r"cannot read .*none"):
        read_json(tmp_path / "none")
    with pytest.raises(InputError, match=r"cannot read .*none: no such file"):
        read_tensors(tmp_path / "none")
    with pytest.raises(InputError, match="not a readable safetensors"):
        read_tensors(tmp_path / "bad")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_json(tmp_path / "file" / "below.json", {})
