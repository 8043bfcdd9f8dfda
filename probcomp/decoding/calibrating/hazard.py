r"""The length prior from answers: a hazard per bin with a shared Beta prior.

    d_j ends among n_j positions at risk:  h_j ~ Beta(a, b),  E[h_j | d] = (a + d_j) / (a + b + n_j)
    (a, b, bin width) maximise  sum_j log B(a + d_j, b + n_j - d_j) - log B(a, b).

The evidence is of the same positions for every width, so widths compete fairly: few answers, or
a smooth law, ask for wide bins.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

WIDTHS = (1, 2, 4, 8, 16)
FAR = 512  # past this position bins are four times as wide


@dataclass(frozen=True)
class HazardFit:
    """``hazard`` per position, the bin ``width``, the Beta ``prior`` and the log ``evidence``."""

    hazard: tuple[float, ...]
    width: int
    prior: tuple[float, float]
    evidence: float


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def _edges(longest: int, width: int) -> list[int]:
    edges = [0]
    while edges[-1] < longest:
        edges.append(edges[-1] + (width if edges[-1] < FAR else 4 * width))
    return edges


def fit_hazard(ends: Tensor, widths: tuple[int, ...] = WIDTHS) -> HazardFit:
    """Empirical-Bayes hazard of end positions (first EOS, counted from 1), int64 [answers]."""
    longest = int(ends.max())
    place = torch.arange(1, longest + 1)
    at_risk = (ends[:, None] >= place).sum(0).double()
    ended = (ends[:, None] == place).sum(0).double()
    rate = float(ended.sum() / at_risk.sum())
    mean = torch.logspace(-1, 1, 21, dtype=torch.float64) * rate
    weight = torch.logspace(-0.5, 4, 28, dtype=torch.float64)
    a = (mean.clamp(max=0.95)[:, None] * weight).flatten()
    b = ((1 - mean.clamp(max=0.95))[:, None] * weight).flatten()
    found: list[HazardFit] = []
    for width in widths:
        edges = _edges(longest, width)
        bins = torch.bucketize(place, torch.tensor(edges[1:]))
        d = torch.zeros(len(edges) - 1, dtype=torch.float64).index_add(0, bins, ended)
        n = torch.zeros_like(d).index_add(0, bins, at_risk)
        value = _log_beta(a[:, None] + d, b[:, None] + n - d).sum(1) - len(d) * _log_beta(a, b)
        best = int(value.argmax())
        h = (a[best] + d) / (a[best] + b[best] + n)
        later = float(a[best] / (a[best] + b[best]))  # nobody was seen there: the prior's mean
        hazard = (*h[bins].tolist(), later)
        found.append(HazardFit(hazard, width, (float(a[best]), float(b[best])), float(value[best])))
    return max(found, key=lambda fit: fit.evidence)
