"""Parts of a report: small frozen records of budgets, masks and posteriors."""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from probcomp.errors import InputError
from probcomp.evaluation.estimate import Comparison
from probcomp.evaluation.regularity import as_matrix

PICTURE_CELLS = 512
"""Longest side of a stored mask picture; larger masks are averaged over square cells."""
UNIT_POINTS = 512
"""Most points kept of one axis' sorted unit scores."""


@dataclass(frozen=True)
class BudgetLine:
    """One budgeted quantity.

    Attributes:
        unit: ``"params"``, ``"macs"``, ``"bits"`` or ``"latency_ms"``.
        requested: what was asked, as the user wrote it (a share of the dense count, or a count).
        achieved: what came out, on the same scale.
        dense: the dense model's count in this unit, or ``None``.
        kept: the compressed model's count in this unit, or ``None``.
        note: the reason for a difference, or empty.
    """

    unit: str
    requested: float
    achieved: float
    dense: float | None = None
    kept: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Prediction:
    """What a method expected its decision to cost, before it was measured.

    Attributes:
        increase: predicted increase of the loss, nats for the unit of the report's loss.
        by_axis: axis name to the increase where that axis alone loses its units.
        temperatures: axis name to predicted over measured increase of a sampled removal, by which
            predictions were corrected.
    """

    increase: float
    by_axis: Mapping[str, float]
    temperatures: Mapping[str, float]


@dataclass(frozen=True)
class CodedRow:
    """One tensor in a coded file.

    Attributes:
        name: its name.
        shape: its shape.
        nonzero: entries that are not zero.
        distinct: distinct values among them.
        bits: bits by part: ``mask``, ``values``, ``codebook``, ``raw``, ``header``.
    """

    name: str
    shape: tuple[int, ...]
    nonzero: int
    distinct: int
    bits: Mapping[str, float]


@dataclass(frozen=True)
class CodedFile:
    """The compressed network as one file that was written and read back.

    Attributes:
        bytes: size of the file.
        dense_bytes: the dense model's parameters in their own data type.
        bits: bits by part over the whole file; ``header`` holds the architecture too.
        tensors: the tensors in the file.
        before: training loss of the compressed model, nats a sample; codebooks were chosen by it.
        after: that of the model in the file.
        accuracy: test accuracy of the dense model and of the one in the file.
        nll: negative log-likelihood of both on test data.
    """

    bytes: int
    dense_bytes: int
    bits: Mapping[str, float]
    tensors: tuple[CodedRow, ...]
    before: float
    after: float
    accuracy: Comparison | None = None
    nll: Comparison | None = None

    @property
    def ratio(self) -> float:
        """Dense bytes over those of the file."""
        return self.dense_bytes / self.bytes


@dataclass(frozen=True)
class Histogram:
    """Counts of inclusion scores in equal bins over [0, 1]; make it with `of`.

    Attributes:
        name: what was counted.
        counts: number per bin, lowest bin first.
    """

    name: str
    counts: tuple[int, ...]

    @classmethod
    def of(cls, name: str, inclusion: torch.Tensor, bins: int = 40) -> "Histogram":
        """Count a tensor of scores of any shape. Values outside [0, 1] are refused."""
        values = _scores(name, inclusion).flatten()
        counts, _ = np.histogram(values, bins=bins, range=(0.0, 1.0))
        return cls(name, tuple(int(count) for count in counts))


@dataclass(frozen=True)
class UnitSummary:
    """Posterior of one axis' units; make it with `of`.

    Attributes:
        name: the axis.
        kind: what its units are: ``neuron``, ``channel``, ``head`` ...
        size: units before.
        kept: units after.
        inclusion: inclusion scores, highest first, at most `UNIT_POINTS` evenly spaced ranks.
    """

    name: str
    kind: str
    size: int
    kept: int
    inclusion: tuple[float, ...]

    @classmethod
    def of(cls, name: str, kind: str, inclusion: torch.Tensor, keep: torch.Tensor) -> "UnitSummary":
        """Summarise ``inclusion`` [size] and the decision ``keep`` [size] of one axis."""
        if inclusion.shape != keep.shape or inclusion.dim() != 1:
            got = f"{tuple(inclusion.shape)} and {tuple(keep.shape)}"
            raise InputError(f"{name}: expected inclusion and keep of one shape [size], got {got}")
        ranked = inclusion.detach().double().cpu().sort(descending=True).values
        size = ranked.numel()
        if size > UNIT_POINTS:
            ranked = ranked[torch.linspace(0, size - 1, UNIT_POINTS).round().long()]
        values = tuple(round(float(value), 6) for value in ranked)
        return cls(name, kind, size, int(keep.bool().sum()), values)


@dataclass(frozen=True)
class MaskPicture:
    """Images of one matrix: our mask, magnitude pruning's, our scores; make it with `of`.

    Attributes:
        name: the parameter.
        rows: rows of the picture.
        cols: columns of the picture.
        cell: side of the square of weights that one pixel averages; 1 means every weight is shown.
        ours: density per pixel in 1/255, row by row, zlib-compressed, base64.
        magnitude: the same for magnitude pruning, or empty.
        inclusion: the same for the inclusion scores, or empty.
        shape: the parameter's shape in the dense model.
    """

    name: str
    rows: int
    cols: int
    cell: int
    ours: str
    magnitude: str = ""
    inclusion: str = ""
    shape: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        ours: torch.Tensor,
        magnitude: torch.Tensor | None = None,
        inclusion: torch.Tensor | None = None,
    ) -> "MaskPicture":
        """Pack boolean masks and scores; convolutions [o, i, h, w] become [o, i*h*w]."""
        for other in (magnitude, inclusion):
            if other is not None and other.shape != ours.shape:
                got = f"{tuple(ours.shape)} and {tuple(other.shape)}"
                raise InputError(f"{name}: masks and scores must have one shape, got {got}")
        matrix = as_matrix(ours)
        cell = -(-max(matrix.shape) // PICTURE_CELLS)
        first = _pool(matrix, cell)
        second = "" if magnitude is None else _pack(_pool(as_matrix(magnitude), cell))
        third = ""
        if inclusion is not None:
            third = _pack(_pool(_scores(name, inclusion).reshape(matrix.shape), cell))
        rows, cols = first.shape
        return cls(name, rows, cols, cell, _pack(first), second, third, tuple(ours.shape))

    def pixels(self, which: str = "ours") -> np.ndarray:
        """Mean per pixel, [rows, cols] in [0, 1], of ``ours``, ``magnitude`` or ``inclusion``."""
        raw = zlib.decompress(base64.b64decode(getattr(self, which)))
        return np.frombuffer(raw, np.uint8).reshape(self.rows, self.cols) / 255.0


def _scores(name: str, values: torch.Tensor) -> np.ndarray:
    scores = values.detach().double().cpu().numpy()
    if scores.size and not (np.isfinite(scores).all() and 0 <= scores.min() <= scores.max() <= 1):
        raise InputError(f"{name}: inclusion scores must lie in [0, 1]")
    return scores


def _pool(mask: np.ndarray, cell: int) -> np.ndarray:
    rows, cols = (-(-side // cell) for side in mask.shape)
    total = np.zeros((rows * cell, cols * cell))
    count = np.zeros_like(total)
    total[: mask.shape[0], : mask.shape[1]] = mask
    count[: mask.shape[0], : mask.shape[1]] = 1
    fold = (rows, cell, cols, cell)
    return total.reshape(fold).sum((1, 3)) / count.reshape(fold).sum((1, 3))


def _pack(density: np.ndarray) -> str:
    raw = np.round(density * 255).astype(np.uint8).tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode("ascii")
