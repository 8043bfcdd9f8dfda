"""Where pilots leave what they have done: records by the hash of their configuration.

Everything is written under a temporary name and renamed, so a killed run leaves whole records or
none, and two workers that compute the same thing write the same numbers (seconds taken differ).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.storage import read_json, read_tensors, write_json, write_tensors

Record = dict[str, Any]


def content_key(value: Mapping[str, Any]) -> str:
    """Hash of plain values; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class Records(Protocol):
    """A table from key to record."""

    def get(self, key: str) -> Record | None:
        """The record, or None."""
        ...

    def put(self, key: str, record: Record) -> None:
        """Add a record; once written it does not change."""
        ...

    def all(self) -> dict[str, Record]:
        """Every record by its key."""
        ...


class JsonRecords:
    """One JSON file a record, in a directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Record | None:
        """See `Records`."""
        path = self.folder / f"{key}.json"
        return read_json(path) if path.is_file() else None

    def put(self, key: str, record: Record) -> None:
        """See `Records`."""
        write_json(self.folder / f"{key}.json", record)

    def all(self) -> dict[str, Record]:
        """See `Records`."""
        paths = sorted(self.folder.glob("*.json")) if self.folder.is_dir() else []
        return {path.stem: read_json(path) for path in paths}


class Store:
    """Records of pilots and of single runs, and the weights that pilots share.

    Args:
        folder: Directory of weights, and of records without ``optuna``.
        optuna: Address of an Optuna storage (``sqlite:///runs.db``, or the path of a journal
            file ending in ``.log``) that keeps the records of pilots instead.
    """

    def __init__(self, folder: Path | str, optuna: str | None = None) -> None:
        self.folder, self.optuna = Path(folder), optuna
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file; the store of pilots is a directory.")
        self.runs: Records = JsonRecords(self.folder / "runs")
        self.pairs: Records = JsonRecords(self.folder / "pairs")
        self.dense: Records = JsonRecords(self.folder / "dense")
        if optuna is None:
            self.pilots: Records = JsonRecords(self.folder / "pilots")
        else:
            from probcomp.regime.optuna_store import OptunaRecords

            self.pilots = OptunaRecords(optuna)

    def weights(self, *names: str) -> Path:
        """File of weights by name."""
        return self.folder.joinpath("weights", *names).with_suffix(".safetensors")

    def save_weights(self, tensors: Mapping[str, Tensor], *names: str) -> None:
        """Write named tensors."""
        write_tensors(self.weights(*names), tensors)

    def load_weights(self, *names: str) -> dict[str, torch.Tensor] | None:
        """Read named tensors, or None where there are none."""
        path = self.weights(*names)
        return read_tensors(path) if path.is_file() else None
