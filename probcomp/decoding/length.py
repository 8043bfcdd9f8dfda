r"""Length priors: a hazard h_j = P(end at j | not before), for positions j = 1, 2, ...

    pi_k = h_k prod_{j<k} (1 - h_j),     S_0(n) = prod_{j<=n} (1 - h_j) = P(end > n).

The end is the position of the first EOS token, so an answer of n tokens ends at n + 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import InputError

NEG = -1e30  # stands for log 0 where sums must stay finite


@dataclass(frozen=True)
class LengthPrior:
    """A hazard per position; the last value holds for every later position."""

    hazard: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.hazard or not all(0.0 <= h <= 1.0 for h in self.hazard):
            raise InputError("a length prior needs a hazard in [0, 1] for each position, got none")

    @classmethod
    def constant(cls, mean: float) -> "LengthPrior":
        """Geometric ends at mean position ``mean`` (tokens, the EOS counted)."""
        if not mean >= 1.0:
            raise InputError(f"a mean end position is at least 1 token, got {mean}")
        return cls((1.0 / mean,))

    @classmethod
    def negative_binomial(cls, mean: float, shape: float, positions: int = 2048) -> "LengthPrior":
        """End = 1 + NB with ``mean`` content tokens and ``shape`` r (r = 1 is geometric)."""
        if mean <= 0 or shape <= 0:
            raise InputError(f"mean and shape are above 0, got mean {mean} and shape {shape}")
        return cls(tuple(negative_binomial_hazard(mean, shape, positions).tolist()))

    @classmethod
    def from_bins(cls, edges: tuple[int, ...], hazards: tuple[float, ...]) -> "LengthPrior":
        """Piecewise constant: ``hazards[b]`` for positions edges[b] < j <= edges[b + 1]."""
        if len(edges) != len(hazards) + 1 or edges[0] != 0 or sorted(set(edges)) != list(edges):
            raise InputError("bins need rising edges from 0, one more than hazards")
        values: list[float] = []
        for begin, end, hazard in zip(edges, edges[1:], hazards):
            values += [hazard] * (end - begin)
        return cls(tuple(values))

    def table(self, width: int) -> Tensor:
        """h_1..h_width, float64 [width]."""
        known = torch.tensor(self.hazard[:width], dtype=torch.float64)
        rest = torch.full((width - len(known),), self.hazard[-1], dtype=torch.float64)
        return torch.cat((known, rest))

    def log_survival(self, width: int) -> Tensor:
        """log S_0(0..width), float64 [width + 1]."""
        steps = torch.log1p(-self.table(width)).clamp(min=NEG)
        return torch.cat((steps.new_zeros(1), steps.cumsum(0))).clamp(min=NEG)

    def log_end(self, length: Tensor, width: int) -> Tensor:
        """log pi per row. length [batch] -> [batch, width + 1], in natural places.

        Column k - 1 is "the end is at k" for k <= length, column ``length`` of a row is "beyond
        the window", and later columns are impossible (`NEG`).
        """
        survival = self.log_survival(width).to(length.device)
        pmf = (self.table(width).to(length.device).log() + survival[:-1]).clamp(min=NEG)
        column = torch.arange(width + 1, device=length.device)
        inside = torch.cat((pmf, pmf.new_full((1,), NEG)))
        rows = torch.where(column < length[:, None], inside, NEG)
        return torch.where(column == length[:, None], survival, rows)


def negative_binomial_hazard(mean: float, shape: float, positions: int) -> Tensor:
    """Hazard of 1 + NB(shape, mean) at 1..positions, float64 [positions]."""
    n = torch.arange(positions, dtype=torch.float64)
    success = torch.tensor(shape / (shape + mean), dtype=torch.float64)
    log_pmf = (
        torch.lgamma(n + shape)
        - torch.lgamma(n + 1)
        - torch.lgamma(torch.tensor(shape, dtype=torch.float64))
        + shape * success.log()
        + n * torch.log1p(-success)
    )
    pmf = log_pmf.exp()
    # P(>= n) from the far end loses nothing to cancellation; the mass past the table is geometric.
    ratio = (1 - success) * (positions + shape) / (positions + 1.0)
    beyond = pmf[-1] * ratio / (1 - ratio).clamp(min=1e-12)
    reach = pmf.flip(0).cumsum(0).flip(0) + beyond
    return (pmf / reach.clamp(min=1e-300)).clamp(0.0, 1.0)
