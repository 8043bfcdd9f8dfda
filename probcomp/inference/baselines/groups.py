"""The common frame of group methods whose weights have no posterior of their own."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from probcomp.inference.baselines.engine import Decay, Fit, Schedule
from probcomp.inference.baselines.gating import Gate
from probcomp.inference.baselines.places import Place, find_places
from probcomp.inference.baselines.preparing import (
    Setting,
    decide_units,
    finish,
    run,
    seeded,
    working_copy,
)
from probcomp.inference.baselines.readout import Pruned, cut
from probcomp.inference.training.weights import terms_of


def fit_gates(
    setting: Setting,
    config: Schedule,
    name: str,
    family: Callable[[Place], Gate],
    *,
    decay: float = 0.0,
    about: Callable[[Sequence[Gate]], dict[str, Any]] = lambda gates: {},
) -> Pruned:
    """Train a network with gates on what its layers read, and prune.

    Args:
        setting: The model, the data, the budget.
        config: The schedule.
        name: Name of the method, for the record.
        family: The gate of a place.
        decay: Precision of a Gaussian prior over weights for each sample, at its mode.
        about: Further entries of the record, from the trained gates.

    Raises:
        InputError: The model has no layer to prune, or the checkpoint is of another run.
        BudgetError: The budget is out of reach.
        DivergenceError: The loss is not finite.
    """
    with seeded(setting.seed) as noise:
        model, names = working_copy(setting)
        gates = [family(place) for place in find_places(model, setting.units, names)]
        weights = [model.get_parameter(f"{layer}.weight".lstrip(".")) for layer in names]
        terms = [Decay(weights, decay * terms_of(setting.batches))] if decay else []
        fit = Fit(model, setting.batches, setting.loss, config, noise, gates, terms)
        history = run(fit, setting, config)
        scores = {gate.place.name: gate.score() for gate in gates}
        if fit.gating is not None:
            fit.gating.fold(model)
        masks, keep, shift = cut(
            scores,
            {gate.place.name: gate.threshold for gate in gates},
            decide_units(model, names, setting.units, gates),
            setting.limit,
        )
        refitted = finish(model, setting, config, masks, keep)
    meta = record(name, gates, scores, shift) | {"refit_nll": refitted} | about(gates)
    return Pruned(model=model, masks=masks, keep=keep, history=history, meta=meta)


def record(
    name: str, gates: Sequence[Gate], scores: dict[str, Tensor], shift: float
) -> dict[str, Any]:
    """What a group method says of its decision, as JSON values.

    Thresholds are on the axis of the scores: where a method's own rule removes what lies above a
    number, as those by noise do, scores are the negative and so is the threshold.
    """
    return {
        "method": name,
        "rule": "score > threshold",
        "thresholds": {gate.place.name: gate.threshold + shift for gate in gates},
        "scores": {place: values.tolist() for place, values in scores.items()},
    }
