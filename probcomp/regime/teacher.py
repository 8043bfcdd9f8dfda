"""Linear teacher and student with magnitude pruning: the best training time is known exactly.

The teacher has ``w* ~ k N(0, v_s) + (1 - k) delta_0``; the trained student is
``w = s (w* + e)``, ``e ~ N(0, v)``, with ``s = 1 - exp(-training time)``: hot is small s. Pruning
keeps ``|w* + e| > theta``. The answer to "train longer or shorter" flips with the density, so
this is the exact test of a decision rule (in the opposite sense to convolutional networks).
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from probcomp.errors import InputError
from probcomp.regime.toys import Array, kept_energy, upper_tail


@dataclass(frozen=True)
class TeacherStudent:
    """Share of non-zero teacher weights, their variance and the variance of the noise."""

    sparsity: float = 0.2
    signal: float = 1.0
    noise: float = 0.25

    def __post_init__(self) -> None:
        if not (0 < self.sparsity <= 1 and self.signal > 0 and self.noise > 0):
            raise InputError(f"{self}: need sparsity in (0, 1] and positive variances.")

    def density(self, theta: float) -> float:
        """``c = 2 k Q(theta / sqrt V) + 2 (1 - k) Q(theta / sqrt v)``, V = v_s + v."""
        k, wide = self.sparsity, np.sqrt(self.signal + self.noise)
        tail = k * upper_tail(theta / wide) + (1 - k) * upper_tail(theta / np.sqrt(self.noise))
        return float(2 * tail)

    def overlaps(self, density: float) -> tuple[float, float]:
        """``A = k v_s h(theta / sqrt V)`` and ``B = k V h(.) + (1 - k) v h(theta / sqrt v)``."""
        if not 0 < density <= 1:
            raise InputError(f"density is {density}; it must lie in (0, 1].")
        top = 40 * np.sqrt(self.signal + self.noise)
        theta = brentq(lambda t: self.density(t) - density, 0.0, top) if density < 1 else 0.0
        k, wide = self.sparsity, self.signal + self.noise
        first, second = kept_energy(theta / np.sqrt([wide, self.noise]))
        return (
            float(k * self.signal * first),
            float(k * wide * first + (1 - k) * self.noise * second),
        )

    def risk(self, density: float, scale: float) -> float:
        """Squared error per weight, ``R = k v_s - 2 s A + s^2 B``."""
        a, b = self.overlaps(density)
        return self.sparsity * self.signal - 2 * scale * a + scale**2 * b

    def best_scale(self, density: float) -> float:
        """``s* = A / B``: train longer iff the scale is below it."""
        a, b = self.overlaps(density)
        return a / b

    def sample_risk(self, density: float, scale: float, *, size: int, seed: int = 0) -> float:
        """Monte Carlo of `risk` with ``size`` weights."""
        generator = np.random.default_rng(seed)
        active = generator.random(size) < self.sparsity
        teacher = np.sqrt(self.signal) * generator.standard_normal(size) * active
        noisy = teacher + np.sqrt(self.noise) * generator.standard_normal(size)
        cut = np.quantile(np.abs(noisy), 1 - density)
        student: Array = scale * noisy * (np.abs(noisy) >= cut)
        return float(np.mean((teacher - student) ** 2))
