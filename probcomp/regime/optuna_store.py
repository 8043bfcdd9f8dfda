"""Records of pilots in an Optuna storage: one finished trial a pilot, readable by its dashboard."""

import json
import os
from pathlib import Path
from typing import Any

from probcomp.errors import InputError
from probcomp.regime.store import Record

STUDY = "probcomp-pilots"
NOWHERE = "sqlite:///:memory:"
"""A storage that is gone with the process."""


def is_missing(address: str) -> bool:
    """Whether a storage is a file of this host that is not there: opening it would make it."""
    place = address.removeprefix("sqlite:///")
    is_file = place != address or address.endswith(".log")
    return is_file and place != ":memory:" and not Path(place).exists()


def absolute_address(address: str) -> str:
    """An address that means the same storage in every folder of this host."""
    if address.endswith(".log"):
        return os.path.abspath(address)
    place = address.removeprefix("sqlite:///")
    if place == address or place.startswith((":memory:", "file:")):
        return address
    file, question, options = place.partition("?")
    return f"sqlite:///{os.path.abspath(file)}{question}{options}"


class OptunaRecords:
    """Trials of one study; a pilot is a trial with the test error as its value.

    Parameters are the knobs and the density; mean connectivity and similarity are user
    attributes, and so is the whole record. Optuna's heartbeats work inside ``optimize`` only, so
    none are used: a pilot is added when it is finished, and a killed one leaves nothing.

    Args:
        address: ``sqlite:///file.db`` or another database for one host, or the path of a journal
            ending in ``.log`` for file systems that several hosts share.
    """

    def __init__(self, address: str, study: str = STUDY) -> None:
        try:
            import optuna
        except ImportError as error:
            raise InputError(
                "an Optuna storage needs Optuna: pip install 'optuna'; without --optuna records "
                "are kept as files in the store."
            ) from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        storage: Any = address
        if address.endswith(".log"):
            from optuna.storages.journal import JournalFileBackend

            storage = optuna.storages.JournalStorage(JournalFileBackend(address))
        elif "://" not in address:
            raise InputError(f"Optuna storage {address!r}: give sqlite:///file.db, or a .log file.")
        try:
            self._study = optuna.create_study(
                storage=storage, study_name=study, load_if_exists=True
            )
        except Exception as error:  # the database drivers each raise their own
            raise InputError(f"cannot open the Optuna storage {address!r}: {error}") from error
        self._seen: dict[str, Record] = {}

    def get(self, key: str) -> Record | None:
        """The record of a pilot, or None."""
        # A record never changes once it is written: only for an unknown one are trials read anew.
        return self._seen[key] if key in self._seen else self.all().get(key)

    def put(self, key: str, record: Record) -> None:
        """Add a finished trial; a pilot that is there already is not added twice."""
        if self.get(key) is not None:
            return
        self._study.add_trial(self._trial(key, record))

    def all(self) -> dict[str, Record]:
        """Every record by its key."""
        done = (self._optuna.trial.TrialState.COMPLETE, self._optuna.trial.TrialState.FAIL)
        trials = self._study.get_trials(deepcopy=False, states=done)
        for trial in trials:
            key = trial.user_attrs.get("key")
            if key is not None and key not in self._seen and "record" in trial.user_attrs:
                self._seen[key] = json.loads(trial.user_attrs["record"])
        return dict(self._seen)

    def _trial(self, key: str, record: Record) -> Any:
        optuna = self._optuna
        params = {
            name: value
            for name, value in record["config"]["recipe"].items()
            if isinstance(value, int | float)
        } | {"density": record["config"]["density"], "dense_seed": record["config"]["dense_seed"]}
        ranges = {
            name: optuna.distributions.FloatDistribution(min(0.0, value), max(1.0, value))
            for name, value in params.items()
        }
        attributes: dict[str, Any] = {"key": key, "record": json.dumps(record)}
        if record["status"] != "done":
            return optuna.trial.create_trial(
                state=optuna.trial.TrialState.FAIL,
                params=params, distributions=ranges, user_attrs=attributes,
            )  # fmt: skip
        for name, parts, field in (
            ("lmc", record["pairs"], "lmc"),
            ("cka", record["pairs"], "cka_softmax"),
        ):
            attributes[name] = sum(part[field] for part in parts) / len(parts)
        value = sum(run["test_error"] for run in record["runs"]) / len(record["runs"])
        return optuna.trial.create_trial(
            value=value, params=params, distributions=ranges, user_attrs=attributes
        )
