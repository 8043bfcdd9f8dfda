"""The result of a compression: a smaller model, the posterior behind it, and a report."""

import copy
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from probcomp.coding import CodedSize, write_network
from probcomp.errors import InputError
from probcomp.inference import Posterior
from probcomp.kernels.replace import unpack_layers
from probcomp.recipes.coded import Coded, Trial, code
from probcomp.report import Report, write_page
from probcomp.storage import replacing
from probcomp.structure import Structure, apply_masks, save

NETWORK = "network.pcn"
"""Name of the coded network in a directory that `Compressed.save` wrote."""


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
        coded: The network as one file, where the job was asked for one.
        trial: What values are tried on before they are made few.
    """

    model: nn.Module
    posterior: Posterior
    structure: Structure
    report: Report
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    keep: Mapping[str, Tensor] = field(default_factory=dict)
    coded: Coded | None = None
    trial: Trial | None = None

    def encode(
        self, path: Path | str, *, tolerance: float | None = None, lossless: bool = False
    ) -> CodedSize:
        """Write the network into one small file, which `probcomp.load` reads back bit for bit.

        Values become few first: each tensor gets a codebook, as coarse as the training data bear.
        Where units are, zeros and codebook indices are entropy-coded
        (`probcomp.coding.write_network`).

        Args:
            path: The file; ``.pcn`` is its customary ending.
            tolerance: By how many nats a sample the training loss may rise; by default 0.01, or 2 %
                of it.
            lossless: Whether to leave the values as they are. The file is several times larger.

        Returns:
            The file's size, with the bits of each tensor's mask, values and codebook.

        Raises:
            InputError: The file cannot be written, or the tolerance is negative.
        """
        if self.coded is not None and tolerance is None and not lossless:
            data, size = self.coded.data, self.coded.size
        else:
            model = copy.deepcopy(self.model)
            apply_masks(model, unpack_layers(model))
            if lossless or self.trial is None:
                return write_network(model, path)
            found = code(model, self.trial, tolerance)
            data, size = found.data, found.size
        with replacing(path) as temporary:
            temporary.write_bytes(data)
        return size

    def save(self, directory: Path | str) -> Path:
        """Write the report (page and JSON), the posterior, and the model into ``directory``.

        The coded network goes along as ``network.pcn``, where there is one.

        Everything is written beside it first and moved into place at the end. Other files that are
        already in the directory stay, but for a coded network of an earlier result.

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
            if self.coded is not None:
                (staging / NETWORK).write_bytes(self.coded.data)
            for entry in staging.iterdir():
                target = directory / entry.name
                if target.is_dir():
                    shutil.rmtree(target)
                entry.replace(target)
            if self.coded is None:
                (directory / NETWORK).unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {directory}: {error.strerror}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return directory
