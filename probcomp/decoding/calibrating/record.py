"""A calibration as a file beside its model: the options, the report, and whose it is."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from probcomp.decoding.config import DecodingConfig
from probcomp.errors import InputError
from probcomp.storage import read_json, write_json

FILE = "decoding_calibration.json"
FORMAT = 1
SAMPLED = 4096  # values of each tensor that enter the checksum


@dataclass(frozen=True)
class Calibration:
    """``options`` of a `DecodingConfig` that were fitted, for the model with this ``checksum``.

    ``report`` holds the scores on held-out answers that let the fit pass.
    """

    checksum: str
    options: dict[str, Any]
    report: dict[str, Any]

    def apply(self, config: DecodingConfig) -> DecodingConfig:
        """The configuration with the fitted options in place."""
        return config.replace(**self.options)

    def save(self, path: Path | str) -> None:
        """Write JSON; ``path`` may be the folder of the model."""
        path = Path(path)
        write_json(
            path / FILE if path.is_dir() else path,
            {
                "format": FORMAT,
                "checksum": self.checksum,
                "options": self.options,
                "report": self.report,
            },
        )


def load_calibration(path: Path | str) -> Calibration:
    """Read what `Calibration.save` wrote; a folder means the file in it."""
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{path} is no decoding calibration of format {FORMAT}; calibrate again")
    missing = {"checksum", "options", "report"} - set(found)
    if missing:
        raise InputError(f"{path} lacks {', '.join(sorted(missing))}; calibrate again")
    options = DecodingConfig.from_dict(found["options"])  # unknown names and values are refused
    names = set(found["options"])
    return Calibration(
        found["checksum"], {name: getattr(options, name) for name in names}, found["report"]
    )


def checksum(model: torch.nn.Module) -> str:
    """SHA-256 over names, shapes, types and up to 4096 evenly spaced values of each tensor.

    Enough to tell two trainings of one architecture apart, and quick on large models.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        step = max(1, len(flat) // SAMPLED)
        some = flat[::step][:SAMPLED].to(device="cpu", dtype=torch.float64).contiguous()
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(some.numpy().tobytes())
    return digest.hexdigest()


def folder_of(model: Any) -> Path | None:
    """The local folder a model was loaded from, if it says."""
    for said in (
        getattr(model, "folder", None),
        getattr(model, "name_or_path", None),
        getattr(getattr(model, "config", None), "_name_or_path", None),
    ):
        if said and Path(str(said)).is_dir():
            return Path(str(said))
    return None


def calibration_for(model: Any, given: Any) -> Calibration | None:
    """The calibration to use: ``given`` (a record, a path, or False for none), or the file beside.

    Raises:
        InputError: the file belongs to other weights.
    """
    if given is False:
        return None
    network = getattr(model, "model", model)
    if isinstance(given, Calibration):
        found, where = given, "this calibration"
    elif given not in (None, True):
        found, where = load_calibration(given), str(given)
    else:
        folder = folder_of(network)
        if folder is None or not (folder / FILE).is_file():
            if given is True:
                raise InputError("there is no calibration beside the model; calibrate it first")
            return None
        found, where = load_calibration(folder), str(folder / FILE)
    if isinstance(network, torch.nn.Module) and found.checksum != checksum(network):
        raise InputError(
            f"{where} belongs to other weights; calibrate again, or decode without it "
            "(calibration=False, --no-calibration)"
        )
    return found
