r"""Pruning in stages with a refit after each: magnitude, optimal brain damage and surgeon.

The kept share falls geometrically to the budget: stage ``t`` of ``T`` keeps
:math:`\kappa^{t/T}` of the cost. At each stage weights are scored, the lowest go, and the rest is
trained. A unit that no kept weight reads is cut, and what its weights cost is spent on others, so
the last stage ends at the budget and not below it.

- ``magnitude``: Han, Pool, Tran and Dally (2015), iterative form; the score is ``|w|``.
- ``obd``: LeCun, Denker and Solla (1990); the score is ``1/2 h w^2`` with a diagonal Fisher
  curvature.
- ``obs``: Hassibi and Stork (1993) with K-FAC curvature; the score is ``w^2 / (2 [H^-1])``, and the
  kept weights of each row are moved to the minimum of the quadratic loss.

Departures: OBD and OBS remove many weights at a time, all by the curvature at the stage's start;
their curvature is the Fisher information.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.baselines.curvature import (
    Curvature,
    Resample,
    compensate,
    curvatures,
    obd_saliency,
    obs_saliency,
)
from probcomp.inference.baselines.engine import Epoch, Schedule
from probcomp.inference.baselines.preparing import (
    Later,
    Setting,
    all_masks,
    seeded,
    working_copy,
)
from probcomp.inference.baselines.readout import Limit, Pruned, cut, settle
from probcomp.inference.training.distillation import distilled
from probcomp.inference.training.refitting import apply_masks, refit

Score = Literal["magnitude", "obd", "obs"]


@dataclass(frozen=True, kw_only=True)
class IterativeConfig(Schedule):
    """Settings of pruning in stages.

    Attributes:
        stages: Number of cuts.
        stage_epochs: Refit epochs after each cut but the last.
        damping: Added to the curvature factors, as a share of their mean diagonal.
        samples: Samples that the curvature is measured on.
        epochs: Refit epochs after the last cut.
        learning_rate: Step of every refit, falling to zero in each.
    """

    epochs: int = 12
    stages: int = 8
    stage_epochs: int = 2
    damping: float = 1e-2
    samples: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages < 1 or self.stage_epochs < 0:
            raise InputError(
                f"stages must be at least 1 and stage_epochs at least 0, got {self.stages} and "
                f"{self.stage_epochs}"
            )


def iterative(
    setting: Setting,
    config: IterativeConfig | None = None,
    *,
    score: Score = "magnitude",
    resample: Resample | None = None,
) -> Pruned:
    """Prune in stages; see the module.

    Args:
        setting: The model, the data, the budget; a budget is needed.
        config: The schedule.
        score: What ranks the weights.
        resample: Draws targets from the model, for the curvature; by default the data's own.

    Raises:
        InputError: No budget, an unknown score, a checkpoint, or a model without layers to prune.
        BudgetError: The budget is out of reach.
        DivergenceError: The loss is not finite.
    """
    config = config or IterativeConfig()
    limit = setting.limit
    if limit is None:
        raise InputError("pruning in stages has no rule of its own: give a budget")
    if score not in ("magnitude", "obd", "obs"):
        raise InputError(f"score must be 'magnitude', 'obd' or 'obs', got {score!r}")
    if setting.checkpoint is not None:
        raise InputError(
            f"pruning in stages writes no checkpoints, got checkpoint={str(setting.checkpoint)!r}; "
            "leave it out"
        )
    loss = distilled(setting.loss, setting.model, share=config.refit_teacher)
    history: dict[str, list[float]] = {"step": [], "nll": [], "density": []}
    with seeded(setting.seed) as noise:
        model, layers = working_copy(setting)
        names = [f"{layer}.weight".lstrip(".") for layer in layers]
        masks = {n: torch.ones_like(model.get_parameter(n), dtype=torch.bool) for n in names}
        keep = {u.name: torch.ones(u.size, dtype=torch.bool) for u in setting.units}
        whole = limit.spent(masks, keep)
        share = min(1.0, limit.allowed / whole)
        done = 0
        for stage in range(1, config.stages + 1):
            found: dict[str, Curvature] = {}
            if score != "magnitude":
                found = curvatures(
                    model, setting.batches, setting.loss, layers,
                    samples=config.samples, epoch=done, resample=resample,
                    generator=noise.generator,
                )  # fmt: skip
            with torch.no_grad():
                scores = {
                    n: _score(score, model.get_parameter(n), masks[n], found.get(n), config)
                    for n in names
                }
                allowed = whole * share ** (stage / config.stages)
                masks, keep, _ = cut(
                    scores,
                    dict.fromkeys(scores, 0.0),
                    lambda alive: settle(model, alive, setting.units),
                    Limit(spent=limit.spent, allowed=allowed),
                )
                if score == "obs":
                    for name, curvature in found.items():
                        weight = model.get_parameter(name)
                        weight.copy_(compensate(weight, masks[name], curvature, config.damping))
                everything = all_masks(model, setting.units, masks, keep)
                apply_masks(model, everything)
            epochs = config.epochs if stage == config.stages else config.stage_epochs
            if epochs:
                losses = refit(
                    model,
                    Later(setting.batches, done),
                    loss=loss,
                    masks=everything,
                    epochs=epochs,
                    learning_rate=config.learning_rate,
                )
                done += epochs
                history["nll"].append(losses[-1])
            else:
                history["nll"].append(float("nan"))
            history["step"].append(float(stage))
            history["density"].append(_density(masks))
            if setting.on_epoch is not None:
                setting.on_epoch(Epoch(stage, history["nll"][-1], 0.0))
        model.train(setting.model.training)
    meta = {"method": score, "stages": config.stages, "refit_epochs": done}
    return Pruned(model=model, masks=masks, keep=keep, history=history, meta=meta)


def _score(
    kind: Score, weight: Tensor, mask: Tensor, curvature: Curvature | None, config: IterativeConfig
) -> Tensor:
    """Scores; what is gone scores below everything that stays."""
    if curvature is None:
        score = weight.abs() if kind == "magnitude" else torch.zeros_like(weight)
    elif kind == "obd":
        score = obd_saliency(weight, curvature)
    else:
        score = obs_saliency(weight, curvature, config.damping)
    return score.detach().masked_fill(~mask, -1.0)


def _density(masks: Mapping[str, Tensor]) -> float:
    kept = sum(int(mask.sum()) for mask in masks.values())
    return kept / sum(mask.numel() for mask in masks.values())
