"""Settings of inference over single weights after training."""

from dataclasses import dataclass

from probcomp.errors import InputError
from probcomp.recipes.post_config import REFITS, PostConfig


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """Settings of inference over single weights after training.

    Attributes:
        batch_size: Samples in a forward pass.
        limit: Most bytes of statistics held at a time; None for no limit. Evidence and sites, five
            numbers a weight, are held besides.
        probes: Draws a sample for the Fisher information of each output; 0 for none (plain
            reconstruction errors).
        every: Every n-th batch is probed for it; None as in `PostConfig`.
        softness: Softness of a classifier, see `probcomp.evidence.fisher.Categorical`.
        damping: Pull towards the dense weights, over the mean diagonal of each Gram matrix; by
            default its inputs over the rows it has seen.
        measured: Most calibration samples that are kept back, to measure removals on.
        rounds: Rounds of measuring the removal of each layer's weights, and deciding again with
            evidence tempered by it; 0 trusts the predictions.
        refit: ``sequential`` decides and refits layers in order on the pruned prefix, ``dense``
            refits from the dense statistics, ``none`` leaves the survivors as they are.
        residual: Whether a refit also makes up for what earlier blocks left undone.
        scale: What a nat of the calibration data counts for when weights are judged. They say next
            to nothing of a single weight (thousandths of a nat), while the network was trained on
            far more; at 1 its prior decides. None takes one step, by the evidence, from a first
            guess, see `probcomp.recipes.post_weights_scale`; without a budget that guess is for
            half of the weights gone, since nothing says how many. The masks that come of it ask
            for another scale (``scale_of_masks`` in the posterior's ``meta``). Losses that are
            predicted are not scaled.
        spike: Precision of a removed weight over that of a kept one. Removed weights are gone, so
            this is far above the default of `ep_shared`.
        iterations: Iterations, or sweeps, of each inference.
        widest: Layers with more inputs than this are judged by `joint_cavi`, which takes no
            inverse and is overconfident where inputs are correlated; the others by `ep_shared`.
        sweeps: Passes of messages in each iteration, under priors that need them.
        reorder: Whether units are put in an order in which neighbours are alike; None does it
            under priors that couple neighbours.
        learn: Whether a prior that was given is learnt further (without a budget only, since a
            budget's price takes the place of the density).
    """

    batch_size: int = 16
    limit: int | None = None
    probes: int = 1
    every: int | None = None
    softness: float = 4.0
    damping: float | None = None
    measured: int = 64
    rounds: int = 2
    refit: str = "sequential"
    residual: bool = True
    scale: float | None = None
    spike: float = 1e6
    iterations: int = 10
    widest: int = 2048
    sweeps: int = 20
    reorder: bool | None = None
    learn: bool = False

    def __post_init__(self) -> None:
        self.evidence()  # checks what it shares
        least = {"iterations": 1, "sweeps": 1, "widest": 0}
        wrong = [
            f"{name} must be at least {bound}, got {getattr(self, name)}"
            for name, bound in least.items()
            if not getattr(self, name) >= bound
        ]
        if self.scale is not None and not 0 < self.scale < float("inf"):
            wrong.append(f"scale must be positive and finite, got {self.scale}")
        if not 1 < self.spike < float("inf"):
            wrong.append(f"spike must be a finite ratio above 1, got {self.spike}")
        if self.refit not in REFITS:
            wrong.append(f"refit must be one of {', '.join(REFITS)}, got {self.refit!r}")
        if wrong:
            raise InputError("; ".join(wrong))

    def evidence(self) -> PostConfig:
        """The settings of the pass over the dense model."""
        return PostConfig(
            batch_size=self.batch_size,
            limit=self.limit,
            probes=self.probes,
            every=self.every,
            softness=self.softness,
            damping=self.damping,
            measured=self.measured,
            rounds=self.rounds,
            refit=self.refit,
            residual=self.residual,
        )
