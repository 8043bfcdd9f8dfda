"""The result of a compression: a smaller model, the posterior behind it, and a report."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.inference import Posterior
from probcomp.report import Report, write_page
from probcomp.structure import Structure, save


@dataclass(frozen=True)
class Compressed:
    """What `probcomp.compress` returns.

    Attributes:
        model: The compressed model. Dead units are gone from its tensors; weights that were masked
            inside what remains are zero, and gradient hooks keep them so under further training.
        posterior: Inclusion probabilities and weight moments, in the dense model's shapes.
        structure: The dense model's axes.
        report: The numbers, as plain data.
        masks: Dense parameter name to what was kept of it.
        keep: Axis name to the units that were kept.
    """

    model: nn.Module
    posterior: Posterior
    structure: Structure
    report: Report
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    keep: Mapping[str, Tensor] = field(default_factory=dict)

    def save(self, directory: Path | str) -> Path:
        """Write the report (page and JSON), the posterior, and the model into ``directory``.

        Everything is written beside it first and moved into place at the end. Other files that are
        already in the directory stay.

        Raises:
            InputError: The directory cannot be written.
        """
        directory = Path(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=directory))
        except OSError as error:
            raise InputError(f"cannot write to {directory}: {error.strerror}") from error
        try:
            save(self.model, staging / "model")
            self.posterior.save(staging)
            self.report.write(staging / "report.json")
            write_page(self.report, staging / "report.html")
            for entry in staging.iterdir():
                target = directory / entry.name
                if target.is_dir():
                    shutil.rmtree(target)
                entry.replace(target)
        except OSError as error:
            raise InputError(f"cannot write to {directory}: {error.strerror}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return directory
