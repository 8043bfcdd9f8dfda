"""Settings of Turbo-VBI at training time."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from probcomp.errors import InputError
from probcomp.inference.training.layers import SIGMA_RATIO, Draw
from probcomp.inference.training.sites import Kernels

Learn = Literal["nothing", "coupling", "both"]


@dataclass(frozen=True, kw_only=True)
class TurboConfig:
    """Settings of Turbo-VBI at training time; the defaults suit small networks.

    Attributes:
        rounds: Outer iterations: a weight step, then evidence and message passing.
        steps: Batches in each weight step.
        epochs: Passes over the data in each weight step, in the place of ``steps``.
        learning_rate: Adam step of the weights; falls to a tenth along a half cosine.
        sigma_rate: Adam step of log sigma.
        sigma_every: Batches between steps of log sigma; each costs a third product a layer.
        kl_weight: Weight of the divergence at full strength; 1 is the evidence bound. ``None``
            follows the amount of data: `probcomp.inference.training.schedule.divergence_weight`.
            Below 1 the posterior is that of a sharpened likelihood, and its probabilities are
            scores; the weight used is in the posterior's ``meta``.
        kl_warmup: Share of the rounds over which that weight rises from 0.
        kappa_start: Spike over slab mean square at first.
        kappa_end: The same from ``kappa_rounds`` on.
        kappa_rounds: Share of the rounds over which kappa falls, geometrically.
        target_rounds: Share of the rounds over which the cost target falls to the one asked for.
        cost_power: A weight pays the price times its cost to this power; budgets count costs as
            they are. The evidence of a weight is bounded, while what it is really worth grows with
            the positions it acts on, as its multiplications do: charged in full, the weights of
            early convolutions all leave. Nothing changes where every weight costs 1.
        temperature: What the evidence of a weight is divided by; see `CollapsedGamma`.
        field: Log-odds of a weight within live units, for the default prior.
        coupling: Coupling of neighbouring supports, for the default prior. The evidence of most
            weights lies 5 to 10 nats apart, so that 1 only breaks ties. With a target it may be
            stronger, and is best let rise: at 2 % of LeNet-300-100 (MNIST, three seeds, ``probcomp
            bench coupling``) one that rises from 1 to 4 leaves 0.22 times the clusters of 0 and
            fills 16 x 16 blocks 1.9 times as much, at 2.54 % error against 2.45 (difference -0.08
            to 0.26). A 4 from the start costs 0.4 points more than 0 in a shorter run. Without a
            target, below 1.4, where a lattice orders by itself.
        coupling_start: Coupling of the first round, which then rises along a line; ``None`` for
            that of ``coupling`` throughout. Supports are first found where the data want them, and
            then drawn together. Only for the default prior.
        coupling_rounds: Share of the rounds over which it rises; with few rounds the last of them
            may come before its end.
        learn: What of a lattice each round learns from its own posterior: nothing, its coupling, or
            its field too, each matrix for itself.
        learn_after: Share of the rounds before which nothing is learnt.
        max_coupling: Highest coupling that may be learnt.
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
        stop_change: Stop when the inclusion probabilities move by less than this share of the
            expected number of weights, three rounds in a row, once all schedules have ended; 0
            never stops early.
        refit_steps: Batches with the masks fixed; ``None`` for 920 or eight passes, whichever is
            more: what is left of a network is cheap to train.
        refit_epochs: Passes over the data with the masks fixed, in the place of ``refit_steps``.
        refit_rate: Adam step of the refit; falls to zero along a half cosine.
        refit_decay: Decoupled weight decay of the refit.
        refit_teacher: Share that the given network's outputs have in the loss of the refit, for
            classifiers: `probcomp.inference.training.distillation`. The network should be trained.
    """

    rounds: int = 40
    steps: int = 115
    epochs: int | None = None
    learning_rate: float = 2e-3
    sigma_rate: float = 2e-2
    sigma_every: int = 2
    kl_weight: float | None = None
    kl_warmup: float = 0.2
    kappa_start: float = 1e-1
    kappa_end: float = 1e-3
    kappa_rounds: float = 0.5
    target_rounds: float = 0.6
    cost_power: float = 0.5
    temperature: float = 1.0
    field: float = -0.5
    coupling: float = 1.0
    coupling_start: float | None = None
    coupling_rounds: float = 0.6
    learn: Learn = "nothing"
    learn_after: float = 0.3
    max_coupling: float = 1.38
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
    freeze_after: float = 0.3
    stop_change: float = 1e-2
    refit_steps: int | None = None
    refit_epochs: int | None = None
    refit_rate: float = 2e-3
    refit_decay: float = 0.05
    refit_teacher: float = 0.0

    def __post_init__(self) -> None:
        shares = (
            *("kl_warmup", "kappa_rounds", "target_rounds", "coupling_rounds"),
            *("freeze_after", "learn_after", "refit_teacher"),
        )
        counts = ("order_every", "refit_decay", "stop_change")
        rates = ("temperature", "learning_rate", "sigma_rate", "sigma_ratio", "refit_rate")
        draws = ("outputs", "weights")
        rules = [
            *((n, getattr(self, n) >= 1, "at least 1") for n in ("rounds", "steps", "sweeps")),
            ("epochs", self.epochs is None or self.epochs >= 1, "None or at least 1"),
            *(
                (n, getattr(self, n) is None or getattr(self, n) >= 0, "not negative")
                for n in ("refit_steps", "refit_epochs")
            ),
            ("kl_weight", self.kl_weight is None or 0 <= self.kl_weight < math.inf, "not negative"),
            (
                "coupling_start",
                self.coupling_start is None
                or (0 <= self.coupling_start < math.inf and self.learn == "nothing"),
                "None, or not negative and nothing be learnt",
            ),
            ("learn", self.learn in get_args(Learn), f"one of {get_args(Learn)}"),
            ("max_coupling", 0 <= self.max_coupling <= 1.4, "in [0, 1.4]"),
            ("trials", self.trials >= 1, "at least 1"),
            ("sigma_every", self.sigma_every >= 1, "at least 1"),
            *((n, 0 < getattr(self, n) < math.inf, "positive and finite") for n in rates),
            *((n, 0 <= getattr(self, n) <= 1, "a share in [0, 1]") for n in shares),
            ("cost_power", 0 <= self.cost_power <= 1, "in [0, 1]"),
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
