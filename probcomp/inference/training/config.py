"""Settings of Turbo-VBI at training time."""

import math
from dataclasses import dataclass

from probcomp.errors import InputError
from probcomp.inference.training.layers import SIGMA_RATIO, Draw
from probcomp.inference.training.sites import Kernels


@dataclass(frozen=True, kw_only=True)
class TurboConfig:
    """Settings of Turbo-VBI at training time; the defaults suit small networks.

    Attributes:
        rounds: Outer iterations: a weight step, then evidence and message passing.
        epochs: Passes over the data in each weight step.
        learning_rate: Adam step of the weights; falls to a tenth along a half cosine.
        sigma_rate: Adam step of log sigma.
        sigma_every: Batches between steps of log sigma; each costs a third product a layer.
        kl_weight: Weight of the divergence at full strength; 1 is the evidence bound.
        kl_warmup: Share of the rounds over which that weight rises from 0.
        kappa_start: Spike over slab mean square at first.
        kappa_end: The same from ``kappa_rounds`` on.
        kappa_rounds: Share of the rounds over which kappa falls, geometrically.
        target_rounds: Share of the rounds over which the cost target falls to the one asked for.
        field: Log-odds of a weight within live units, for the default prior.
        coupling: Coupling of neighbouring supports, for the default prior; below 1.39, the
            ordering threshold of loopy belief propagation on a lattice.
        gate_field: Prior log-odds of a unit.
        kernels: Whether a convolution's kernel lives and dies as one.
        linear_draw: How linear layers draw noise.
        convolution_draw: How convolutions draw noise.
        sigma_ratio: Initial sigma over a layer's root mean square.
        sweeps: Message-passing sweeps for each price tried.
        trials: Most prices tried in a round.
        damping: Share of the old gate message kept in each sweep.
        order_every: Rounds between new unit orders; 0 leaves the given order.
        permute: Whether units whose removal is exact end up in that order in the model itself.
        freeze_below: Units with a smaller inclusion probability are removed for good.
        freeze_after: Share of the rounds before which no unit is removed for good.
        stop_change: Stop when no inclusion probability moves by more, three rounds in a row, once
            all schedules have ended; 0 never stops early.
        refit_epochs: Passes over the data with the masks fixed.
        refit_rate: Adam step of the refit; falls to zero along a half cosine.
        refit_decay: Decoupled weight decay of the refit.
    """

    rounds: int = 40
    epochs: int = 5
    learning_rate: float = 2e-3
    sigma_rate: float = 2e-2
    sigma_every: int = 2
    kl_weight: float = 0.2
    kl_warmup: float = 0.2
    kappa_start: float = 1e-1
    kappa_end: float = 1e-3
    kappa_rounds: float = 0.5
    target_rounds: float = 0.6
    field: float = -0.5
    coupling: float = 1.0
    gate_field: float = 0.0
    kernels: Kernels = "shared"
    linear_draw: Draw = "outputs"
    convolution_draw: Draw = "weights"
    sigma_ratio: float = SIGMA_RATIO
    sweeps: int = 3
    trials: int = 6
    damping: float = 0.3
    order_every: int = 5
    permute: bool = True
    freeze_below: float = 1e-3
    freeze_after: float = 0.6
    stop_change: float = 1e-2
    refit_epochs: int = 40
    refit_rate: float = 2e-3
    refit_decay: float = 0.0

    def __post_init__(self) -> None:
        shares = ("kl_warmup", "kappa_rounds", "target_rounds", "freeze_after")
        counts = ("kl_weight", "order_every", "refit_epochs", "refit_decay", "stop_change")
        rates = ("learning_rate", "sigma_rate", "sigma_ratio", "refit_rate")
        draws = ("outputs", "weights")
        rules = [
            *((n, getattr(self, n) >= 1, "at least 1") for n in ("rounds", "epochs", "sweeps")),
            ("trials", self.trials >= 1, "at least 1"),
            ("sigma_every", self.sigma_every >= 1, "at least 1"),
            *((n, 0 < getattr(self, n) < math.inf, "positive and finite") for n in rates),
            *((n, 0 <= getattr(self, n) <= 1, "a share in [0, 1]") for n in shares),
            *((n, 0 <= getattr(self, n) < math.inf, "not negative") for n in counts),
            ("kappa_start", self.kappa_end <= self.kappa_start < 1, "in [kappa_end, 1)"),
            ("kappa_end", self.kappa_end > 0, "positive"),
            ("damping", 0 <= self.damping < 1, "in [0, 1)"),
            ("freeze_below", 0 < self.freeze_below < 1, "in (0, 1)"),
            ("kernels", self.kernels in ("shared", "separate"), "'shared' or 'separate'"),
            ("linear_draw", self.linear_draw in draws, "'outputs' or 'weights'"),
            ("convolution_draw", self.convolution_draw in draws, "'outputs' or 'weights'"),
        ]
        wrong = [
            f"{name} must be {rule}, got {getattr(self, name)!r}"
            for name, good, rule in rules
            if not good
        ]
        if wrong:
            raise InputError("; ".join(wrong))
