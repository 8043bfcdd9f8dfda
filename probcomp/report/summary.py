"""The record of one compression: what was asked, what came out, and how sure we are.

`Report` is plain data. The page, the terminal table and ``report.json`` are three views of it, so
they cannot disagree.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probcomp.errors import InputError
from probcomp.evaluation.accuracy import Reliability
from probcomp.evaluation.estimate import Comparison, Estimate
from probcomp.evaluation.latency import Latency
from probcomp.evaluation.regularity import LayerRegularity
from probcomp.evaluation.sizes import LayerSize, Size
from probcomp.kernels import PackedLayer
from probcomp.report.pieces import (
    BudgetLine,
    CodedFile,
    Histogram,
    MaskPicture,
    Prediction,
    UnitSummary,
)
from probcomp.report.plain import from_plain, to_plain
from probcomp.storage import read_json, write_json

SCHEMA = 2
"""Version of the keys of ``report.json``. It grows when a key changes its meaning."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything the report shows. All fields are plain numbers, words and tuples of them.

    Attributes:
        model: name of the network, e.g. ``"64-300-100-10"``.
        method: name of the method, e.g. ``"turbo-vbi"``.
        prior: the prior in words, e.g. ``"gated chain, density 0.1"``.
        data: what it was trained and measured on, e.g. ``"scikit-learn digits (1437 + 360)"``.
        seed: the seed of every random step.
        command: the command, or the Python call, that makes this result again.
        budget: one line per budgeted quantity, requested beside achieved.
        dense: sizes of the dense model.
        compressed: sizes of the compressed model.
        layers: sizes per layer, in the order of the model.
        accuracy: share of correct test samples, dense and compressed; ``None`` if not a classifier.
        nll: mean loss in ``loss_name`` per ``nll_unit``, dense and compressed.
        nll_unit: what ``nll`` is counted for: ``sample``, ``token`` or ``position`` (a pixel) of
            the test data.
        loss: what ``nll`` is, in words; by default a negative log-likelihood.
        loss_name: what it is counted in: ``nats``, or ``half squared distance`` where outputs are
            compared and no likelihood is meant.
        cosine: mean cosine of the compressed model's outputs with the dense model's, where the loss
            is their distance; ``None`` otherwise.
        prediction: what the method expected the loss increase to be, or ``None``.
        reliability: dense and compressed reliability diagrams, or empty.
        latency: time per batch of both models from one interleaved run, or ``None``.
        packed: masked layers that were timed in a packed format, and which of them the model uses.
        coded: the compressed model as one file, if it was written; ``None`` otherwise.
        regularity: mask regularity per layer, beside magnitude pruning at equal non-zeros.
        pictures: mask pictures per layer.
        calibrated: whether inclusion numbers of weights are probabilities that were validated
            against outcomes. Otherwise they are scores, and all views call them so; those of units
            always are.
        inclusion: histogram of the inclusion scores per weight matrix.
        units: inclusion scores of the removable units per axis, and how many were kept.
        history: series over the outer iterations, all of one length. Known keys: ``step``, ``nll``
            (nats per sample), ``kl`` (nats), ``density`` (expected share kept), ``price`` (nats per
            cost unit), ``accuracy``.
        seconds: wall time per stage, in order.
        warnings: sentences the reader must know: what differs from what was asked, and why.
        versions: library versions.
        machine: processor, threads, memory, operating system.
        created: UTC time in ISO format.
        schema: version of these keys.
    """

    model: str
    method: str
    seed: int
    dense: Size
    compressed: Size
    prior: str = ""
    data: str = ""
    command: str = ""
    budget: tuple[BudgetLine, ...] = ()
    layers: tuple[LayerSize, ...] = ()
    accuracy: Comparison | None = None
    nll: Comparison | None = None
    nll_unit: str = "sample"
    loss: str = "negative log-likelihood"
    loss_name: str = "nats"
    cosine: Estimate | None = None
    prediction: Prediction | None = None
    reliability: tuple[Reliability, ...] = ()
    latency: Latency | None = None
    packed: tuple[PackedLayer, ...] = ()
    coded: CodedFile | None = None
    regularity: tuple[LayerRegularity, ...] = ()
    pictures: tuple[MaskPicture, ...] = ()
    calibrated: bool = False
    inclusion: tuple[Histogram, ...] = ()
    units: tuple[UnitSummary, ...] = ()
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    schema: int = SCHEMA

    @property
    def ratios(self) -> dict[str, float]:
        """Dense over compressed, per quantity: ``nonzero``, ``params``, ``macs``, ``bytes``."""
        pairs = {
            "nonzero": (self.dense.nonzero, self.compressed.nonzero),
            "params": (self.dense.params, self.compressed.params),
            "macs": (self.dense.macs, self.compressed.macs),
            "bytes": (self.dense.bytes, self.compressed.bytes),
        }
        return {name: a / b for name, (a, b) in pairs.items() if a is not None and b}

    def replace(self, **changes: Any) -> "Report":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types, plus the derived ``ratios``.

        A value that is not finite has no word in JSON: it becomes ``null``, and a warning names it.
        """
        lost: list[str] = []
        plain = to_plain(self, lost)
        plain["ratios"] = {k: v for k, v in self.ratios.items() if math.isfinite(v)}
        plain["warnings"] += [f"{path} is not finite and is written as null" for path in lost]
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Report":
        """The record that `to_json` wrote.

        Raises:
            InputError: Missing or unknown keys, or a record of another version.
        """
        found = plain.get("schema") if isinstance(plain, Mapping) else None
        if found != SCHEMA:
            raise InputError(f"the report has version {found}; this release reads {SCHEMA}")
        values = {name: value for name, value in plain.items() if name != "ratios"}
        return from_plain(cls, values, "report")

    def write(self, path: Path | str) -> None:
        """Write ``report.json`` whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path | str) -> "Report":
        """Read a file that `write` wrote."""
        return cls.from_json(read_json(path))
