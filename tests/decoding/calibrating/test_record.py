"""The calibration as a file: a round trip, whose it is, and what is refused."""

import json
from types import SimpleNamespace

import pytest
import torch

from probcomp.decoding.calibrating.record import (
    FILE,
    FORMAT,
    Calibration,
    calibration_for,
    checksum,
    folder_of,
    load_calibration,
)
from probcomp.decoding.config import DecodingConfig
from probcomp.errors import InputError


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(3, 2)


OPTIONS = {"gamma": 0.2, "hazard": (0.1, 0.2), "end_share": ((0.1, 0.2), (0.5, 0.3))}


def test_a_round_trip_keeps_tuples(tmp_path):
    found = Calibration(checksum(network()), OPTIONS, {"answers": 3})
    found.save(tmp_path)
    assert load_calibration(tmp_path) == load_calibration(tmp_path / FILE) == found
    config = found.apply(DecodingConfig())
    assert config.gamma == 0.2
    assert config.end_share == OPTIONS["end_share"]


def test_the_checksum_is_of_names_shapes_types_and_values():
    one = checksum(network())
    assert checksum(network()) == one
    assert checksum(network(1)) != one
    assert checksum(network().double()) != one
    assert checksum(torch.nn.Sequential(network())) != one


def test_the_file_beside_the_model_is_found_and_checked(tmp_path):
    model = network()
    model.folder = tmp_path
    assert calibration_for(model, None) is None
    with pytest.raises(InputError, match="beside"):
        calibration_for(model, True)
    mine = Calibration(checksum(model), OPTIONS, {})
    mine.save(tmp_path)
    for given in (None, True, tmp_path, tmp_path / FILE, mine):
        assert calibration_for(model, given) == mine
    assert calibration_for(model, False) is None
    assert calibration_for(SimpleNamespace(model=model), None) == mine  # an adapter's network
    with torch.no_grad():
        model.weight[0, 0] += 1
    for given in (None, True, tmp_path, mine):
        with pytest.raises(InputError, match="other weights"):
            calibration_for(model, given)


def test_a_folder_is_read_off_the_usual_places(tmp_path):
    for place in ({"folder": tmp_path}, {"name_or_path": str(tmp_path)},
                  {"config": SimpleNamespace(_name_or_path=str(tmp_path))}):  # fmt: skip
        assert folder_of(SimpleNamespace(**place)) == tmp_path
    assert folder_of(SimpleNamespace(name_or_path="someone/model-on-the-hub")) is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "calibrate again"),
        ({"format": FORMAT + 1}, "calibrate again"),
        ({"format": FORMAT, "options": {}}, "lacks checksum, report"),
        ({"format": FORMAT, "checksum": "", "report": {}, "options": {"gama": 1}}, "gamma"),
        ({"format": FORMAT, "checksum": "", "report": {}, "options": {"gamma": -1}}, "above 0"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, says):
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(InputError, match=says):
        load_calibration(tmp_path)
