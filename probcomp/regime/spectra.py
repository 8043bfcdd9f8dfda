"""Tail exponents of weight spectra: how heavy-tailed a layer has become in training."""

import numpy as np
import torch
from torch import Tensor, nn

from probcomp.errors import InputError

LEAST_EIGENVALUES = 50
"""With fewer a fitted exponent says nothing (Zhou et al. 2023, TempBalance)."""


def spectrum(weight: Tensor) -> Tensor:
    """Eigenvalues of ``W'W``, ascending, on the CPU; [min(out, in)] of a matrix [out, in].

    A convolution [out, in, *kernel] is a matrix for each position of its kernel, and the
    eigenvalues of all are pooled: [positions * min(out, in)] (Zhou et al. 2023, TempBalance;
    Martin et al. 2021, WeightWatcher). TempBalance also scales them by a half, of which no
    exponent depends.
    """
    if weight.ndim < 2:
        raise InputError(f"got weight {tuple(weight.shape)}; a matrix is needed.")
    if not bool(weight.isfinite().all()):
        raise InputError("the weights hold NaN or infinite values; the network has diverged.")
    positions = weight.flatten(2) if weight.ndim > 2 else weight[..., None]
    matrices = positions.detach().double().movedim(-1, 0)
    return torch.linalg.svdvals(matrices).square().flatten().sort().values.cpu()


def hill_alpha(weight: Tensor, *, tail: float = 0.5) -> float:
    """Tail exponent of the spectrum of ``W'W``: small is well trained, no unit.

    ``alpha = 1 + k / sum_i ln(l_i / l_min)`` over the k largest eigenvalues, k = ``tail`` of all
    (Hill's estimator with the median as threshold; Zhou et al. 2023, TempBalance). For
    convolutions see `spectrum`.
    """
    if weight.ndim < 2 or not 0 < tail < 1:
        raise InputError(f"got weight {tuple(weight.shape)}, tail {tail}: need a matrix, (0, 1).")
    values = spectrum(weight)
    k = int(tail * len(values))
    if k < 2 or values[-k - 1] <= 0:
        raise InputError(f"{len(values)} eigenvalues, {k} in the tail: too few, or zeros.")
    return float(1 + k / torch.log(values[-k:] / values[-k - 1]).sum())


def peak_alpha(weight: Tensor, *, bins: int = 100) -> tuple[float, float]:
    """Tail exponent above the peak of the spectrum's density, and its Kolmogorov distance.

    The threshold is sought among eigenvalues between .95 and 1.5 times the peak of the histogram
    of ``log10 l``; the one whose power law lies nearest to the empirical distribution is taken
    (Clauset et al. 2009, eq. 3.1 and 3.9; the restriction to the peak is that of Lu et al. 2024,
    AlphaPruning, "fix-finger"). No unit; smaller is heavier-tailed.

    Returns:
        alpha, and the largest distance of the two distribution functions.
    """
    values = spectrum(weight).numpy()
    values = values[values > 1e-12 * values[-1]] if len(values) else values
    if len(values) < LEAST_EIGENVALUES:
        raise InputError(
            f"{len(values)} non-zero eigenvalues; at least {LEAST_EIGENVALUES} are needed."
        )
    counts, edges = np.histogram(np.log10(values), bins=bins)
    top = int(np.argmax(counts))
    peak = 10 ** ((edges[top] + edges[top + 1]) / 2)
    thresholds = values[(values > 0.95 * peak) & (values < 1.5 * peak)]
    best = (np.nan, np.inf)
    for low in thresholds:
        above = values[values >= low]
        n, logs = len(above), np.log(above / low).sum()
        if n < 5 or logs <= 0:
            continue
        alpha = 1 + n / logs
        model = 1 - (above / low) ** (1 - alpha)
        seen = np.arange(n)
        distance = max(np.abs(model - seen / n).max(), np.abs(model - (seen + 1) / n).max())
        if distance < best[1]:
            best = (float(alpha), float(distance))
    if not np.isfinite(best[1]):
        raise InputError("no tail: fewer than five eigenvalues lie above the peak.")
    return best


def mean_alpha(model: nn.Module, *, least: int = LEAST_EIGENVALUES) -> float:
    """Mean Hill exponent over linear and convolution layers with at least ``least`` eigenvalues.

    First and last layer are included, which TempBalance leaves out.
    """
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    found = [
        hill_alpha(m.weight)
        for m in model.modules()
        if isinstance(m, kinds) and _eigenvalues(m.weight) >= least
    ]
    if not found:
        raise InputError(f"no layer has {least} eigenvalues; an exponent would say nothing.")
    return float(np.mean(found))


def _eigenvalues(weight: Tensor) -> int:
    """How many `spectrum` gives."""
    return min(weight.shape[:2]) * int(np.prod(weight.shape[2:]))
