import os

import pytest
import torch

import probcomp
from probcomp.errors import InputError
from probcomp.inference import Posterior
from probcomp.report import Report
from tests.recipes.nets import QUICK, clouds, trained


@pytest.fixture(scope="module")
def result():
    return probcomp.compress(trained(), clouds(), budget="params=0.3", config=QUICK, progress=False)


def test_everything_reads_back(result, tmp_path):
    (tmp_path / "mine.txt").write_text("stays")
    (tmp_path / "network.pcn").write_text("of an earlier result, which was coded")
    assert result.save(tmp_path) == tmp_path
    result.save(tmp_path)  # a second time, over the first
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "mine.txt", "model", "report.html", "report.json", "posterior.json", "posterior.safetensors"
    }  # fmt: skip
    assert Report.read(tmp_path / "report.json") == Report.from_json(result.report.to_json())
    loaded = Posterior.load(tmp_path)
    for name, weight in result.posterior.weights.items():
        assert torch.equal(weight.log_odds, loaded.weights[name].log_odds)
    x, _ = clouds(8)
    for path in (tmp_path, tmp_path / "model"):
        assert torch.equal(probcomp.load(path)(x), result.model.eval()(x))


def test_a_directory_that_cannot_be_written(result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        result.save(tmp_path / "file")
    if os.geteuid():  # root may write anywhere
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        with pytest.raises(InputError, match="cannot write"):
            result.save(locked)


def test_a_failure_leaves_nothing_behind(result, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Posterior, "save", fail)
    with pytest.raises(InputError, match="No space left"):
        result.save(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
