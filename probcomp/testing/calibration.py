"""Whether inclusion probabilities mean what they say, against supports that are known."""

from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import InputError


@dataclass(frozen=True)
class Calibration:
    """Inclusion probabilities against known supports.

    Attributes:
        ece: Expected calibration error: mean over supports of ``|share on - mean probability|`` of
            their bin.
        brier: Mean squared error of the probabilities.
        ratio: Expected over true number of supports that are on.
        middle: Share of supports with a probability in [0.05, 0.95].
        count: Supports in each bin.
        mean: Mean probability of each bin that is not empty.
        share: Share of supports that are on, likewise.
    """

    ece: float
    brier: float
    ratio: float
    middle: float
    count: tuple[int, ...]
    mean: tuple[float, ...]
    share: tuple[float, ...]


def calibration(probability: Tensor, support: Tensor, *, bins: int = 10) -> Calibration:
    """Compare probabilities with supports of the same shape, in bins of equal width.

    Raises:
        InputError: Shapes that differ, or nothing to compare.
    """
    if probability.shape != support.shape or probability.numel() == 0:
        raise InputError(
            f"probabilities and supports need one shape, got {tuple(probability.shape)} and "
            f"{tuple(support.shape)}"
        )
    p, s = probability.flatten().double(), support.flatten().double()
    index = (p * bins).long().clamp(0, bins - 1)
    count = torch.bincount(index, minlength=bins)
    mean = torch.bincount(index, p, minlength=bins) / count
    share = torch.bincount(index, s, minlength=bins) / count
    used = count > 0
    ece = float((count[used] / len(p) * (share[used] - mean[used]).abs()).sum())
    return Calibration(
        ece,
        float((p - s).square().mean()),
        float(p.sum() / s.sum()) if bool(s.any()) else float("inf"),
        float(((p >= 0.05) & (p <= 0.95)).double().mean()),
        tuple(count[used].tolist()),
        tuple(mean[used].tolist()),
        tuple(share[used].tolist()),
    )
