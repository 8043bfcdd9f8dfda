"""Records in an Optuna storage, where Optuna is installed; the cure where it is not."""

import sys
from pathlib import Path

import pytest

from probcomp.errors import InputError
from probcomp.regime.optuna_store import NOWHERE, absolute_address, is_missing
from probcomp.regime.pilots import pilot_configs
from probcomp.regime.store import Store
from probcomp.regime.sweep import run_pilots

SOURCE = str(Path(__file__).with_name("tiny_task.py"))


@pytest.mark.parametrize("address", ["sqlite:///{}/pilots.db", "{}/pilots.log"])
def test_pilots_are_trials_and_are_not_run_twice(tmp_path, address):
    optuna = pytest.importorskip("optuna")
    address = address.format(tmp_path)
    configs = pilot_configs(SOURCE, 1, 0.3)
    store = Store(tmp_path / "store", address)
    first = run_pilots(configs, store, engine="serial")
    again = Store(tmp_path / "elsewhere", address)
    assert [again.pilots.get(config.key) for config in configs] == first
    again.pilots.put(configs[0].key, first[0])
    assert run_pilots(configs, again, engine="serial") == first
    storage = address
    if address.endswith(".log"):
        from optuna.storages.journal import JournalFileBackend

        storage = optuna.storages.JournalStorage(JournalFileBackend(address))
    (study,) = optuna.get_all_study_summaries(storage)
    assert study.n_trials == len(configs)
    trials = optuna.load_study(study_name=study.study_name, storage=storage).trials
    shown = {trial.user_attrs["key"]: trial for trial in trials}  # in the order of their ends
    for record in first:
        trial = shown[record["key"]]
        assert trial.params["density"] == 0.3
        assert trial.params["dense_seed"] == record["config"]["dense_seed"]
        assert trial.value == pytest.approx(sum(r["test_error"] for r in record["runs"]) / 2)


def test_a_storage_is_missing_where_its_file_is(tmp_path):
    for address in (f"sqlite:///{tmp_path}/x.db", f"{tmp_path}/x.log"):
        assert is_missing(address)
    (tmp_path / "x.db").touch()
    assert not is_missing(f"sqlite:///{tmp_path}/x.db")
    for address in (NOWHERE, "postgresql://host/pilots", "runs.db"):  # no file, or no address
        assert not is_missing(address)


def test_an_address_means_the_same_in_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_address("sqlite:///x.db") == f"sqlite:///{tmp_path}/x.db"
    assert absolute_address("sqlite:///a/../x.db?t=3") == f"sqlite:///{tmp_path}/x.db?t=3"
    assert absolute_address("x.log") == f"{tmp_path}/x.log"
    there = (f"sqlite:///{tmp_path}/x.db", f"{tmp_path}/x.log")
    for address in (*there, NOWHERE, "sqlite:///file:x?mode=ro", "postgresql://host/pilots"):
        assert absolute_address(address) == address


def test_bad_addresses_are_refused(tmp_path):
    pytest.importorskip("optuna")
    with pytest.raises(InputError, match="sqlite"):
        Store(tmp_path, "runs.db")
    with pytest.raises(InputError, match="cannot open"):
        Store(tmp_path, f"sqlite:///{tmp_path}/no/such/folder/x.db")


def test_without_optuna_the_cure_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match="pip install 'optuna'"):
        Store(tmp_path, "sqlite:///x.db")
