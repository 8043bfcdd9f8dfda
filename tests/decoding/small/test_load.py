import pytest
import torch

from probcomp.decoding.small.load import (
    FOLDER,
    embedded_model,
    load_small,
    small_config,
    training_log,
)
from probcomp.storage import write_tensors


def test_the_shipped_files_are_small_and_belong_together():
    assert (FOLDER / "small.safetensors").stat().st_size < 2_000_000
    log = training_log()
    assert log["parameters"] == sum(p.numel() for p in embedded_model().parameters()) <= 500_000
    assert log["curve"][-1]["step"] == log["steps"]
    assert small_config().max_new_tokens == log["canvas"][1]


def test_it_is_read_once_and_from_where_it_says():
    assert embedded_model() is embedded_model()
    assert embedded_model().folder == FOLDER
    assert not embedded_model().training


def test_a_folder_with_other_tensors_is_refused(tmp_path):
    write_tensors(tmp_path / "small.safetensors", {"embed.weight": torch.zeros(2, 2)})
    with pytest.raises(RuntimeError, match="state_dict"):
        load_small(tmp_path)
