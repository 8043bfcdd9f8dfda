"""Single weights, tiles or N:M patterns removed after training, without a gradient step.

Each layer's weights are judged by expectation propagation on its quadratic loss, under any support
prior; one price for all layers meets the budget; the survivors of each row make up for what went,
layer by layer on the pruned prefix. The numbers of the posterior are scores: what removing each
layer's weights costs is measured, and evidence tempered by it, but the probability of a single
weight is not checked.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.evidence import Matrix
from probcomp.evidence.fisher import Categorical
from probcomp.evidence.watch import BiasPlace, bias_places
from probcomp.inference import Posterior
from probcomp.inference.posterior import WeightPosterior
from probcomp.inference.quadratic import Quadratic
from probcomp.priors.base import SupportPrior
from probcomp.recipes.job import Forecast, Job, Outcome
from probcomp.recipes.likelihoods import recognised
from probcomp.recipes.methods import Method
from probcomp.recipes.needed import all_needed
from probcomp.recipes.post_config import calibration_batches, example_of, parts_of
from probcomp.recipes.post_evidence import Evidence, dense_evidence
from probcomp.recipes.post_temper import Tempering, units_of
from probcomp.recipes.post_weights_budget import allowed_cost, share_gone
from probcomp.recipes.post_weights_config import WeightsConfig as WeightsConfig
from probcomp.recipes.post_weights_decide import (
    Belief,
    believe,
    check_prior,
    choose,
    continued,
    is_coupled,
    is_pattern,
    masks_of_sign,
    solve,
)
from probcomp.recipes.post_weights_layers import Layers, layers_of, ordered
from probcomp.recipes.post_weights_refit import (
    dense_quadratic,
    output_weights,
    refit_rows,
    settle_all,
    write,
)
from probcomp.recipes.post_weights_scale import evidence_scale, first_scale, single_costs

SCORES = (
    "Weights were chosen by expectation propagation on each layer's quadratic loss, tempered by "
    "measured removals; their probabilities are scores, not validated as calibrated probabilities."
)


@dataclass
class _Run:
    """What the stages share.

    Attributes:
        job: The job, with the model in its final order of units.
        config: The settings.
        layers: What may be masked.
        places: Layer to what takes up its mean error.
        evidence: What the dense model showed.
        prior: Prior of the supports.
        allowed: What the weights may cost; None for the prior's own rule.
        units: What the loss counts: samples or tokens of the calibration set.
        price: Nats for each unit of cost, of the last decision.
        scale: What a nat of the calibration data counts for.
        rows: Layer to the weight of each output, see `output_weights`.
        tempering: Layer to what its predictions are worth.
        found: Layer to what is known about its weights.
    """

    job: Job
    config: WeightsConfig
    layers: Layers
    places: Mapping[str, BiasPlace | None]
    evidence: Evidence
    prior: SupportPrior | None
    allowed: float | None
    units: int
    price: float = 0.0
    scale: float = 1.0
    rows: dict[str, Tensor | None] = field(default_factory=dict)
    tempering: dict[str, Tempering] = field(default_factory=dict)
    temperature: dict[str, float] = field(default_factory=dict)
    found: dict[str, Belief] = field(default_factory=dict)
    judged_at: dict[str, float] = field(default_factory=dict)

    def start(self) -> None:
        """The scale before anything is known."""
        if self.config.scale is not None:
            self.scale = self.config.scale
            return
        names, widest = self.layers.matrices, self.config.widest
        sizes = {n: self.job.model.get_parameter(n).numel() for n in names}
        self.scale = first_scale(
            (single_costs(self.quadratic(n), self.rows[n], widest=widest) for n in names),
            share_gone(self.allowed, self.layers.costs, sizes),
        )

    def rescale(self, masks: Mapping[str, Tensor]) -> None:
        """The scale of the evidence, given masks that were decided with tempered losses."""
        lost = {n: self.expected(n, self.removal(n, m)[0]) for n, m in masks.items()}
        new = self.scale_of(masks, lost)
        if new is not None:
            self.price *= new / self.scale
            self.scale = new

    def scale_of(self, masks: Mapping[str, Tensor], lost: Mapping[str, float]) -> float | None:
        """The scale that masks ask for, given what each costs, nats a unit of the loss."""
        removed = sum(int((~m).sum()) for m in masks.values())
        return evidence_scale(removed, sum(lost.values()) * self.units)

    def expected(self, name: str, predicted: float) -> float:
        """What a prediction for a layer is worth, nats a unit of the loss."""
        own = self.tempering.get(name, Tempering())
        return float(own(torch.tensor(predicted, dtype=torch.float64)))

    def quadratic(self, name: str) -> Quadratic:
        """A layer's likelihood from dense statistics, before tempering."""
        matrix = self.layers.matrices[name]
        weight = matrix.of(self.job.model.get_parameter(name).detach()).cpu()
        seen = self.evidence.statistics[name]
        self.rows[name] = output_weights(seen)
        centred = self.places[name] is not None
        return dense_quadratic(weight, seen, self.config, centred=centred)

    def believe(self, name: str, quadratic: Quadratic) -> Belief:
        """Evidence of a layer at the present price and temperature, in nats of all the data."""
        known = self.found.get(name)
        cooled = quadratic.tempered(self.temperature.get(name, 1.0) / self.scale)
        rows = self.rows[name]
        grown = self.scale / self.judged_at.get(name, self.scale)
        self.judged_at[name] = self.scale
        return believe(
            cooled,
            None if rows is None else rows.to(quadratic.weight),
            self.prior if known is None else known.result.prior,
            field=-self.price * self.layers.costs[name],
            config=self.config,
            learn=self.config.learn and self.allowed is None,
            start=None if known is None else continued(known, quadratic, grown),
        )

    def decide(self) -> dict[str, Tensor]:
        """Masks of all layers, from what is known; the price is brought up to date."""
        if self.allowed is None:
            odds = {n: b.result.log_odds for n, b in self.found.items()}
        else:
            self.price, odds = solve(
                self.found, self.prior, self.layers.costs, self.allowed, self.config
            )
        return masks_of_sign(odds, self.prior)

    def predicted(self, name: str, quadratic: Quadratic, new: Tensor) -> float:
        """Loss increase of other weights of a layer, nats a unit of the loss."""
        rows, change = self.rows[name], new - quadratic.weight
        if rows is not None:
            change = change * rows.to(change).sqrt()[:, None]
        return quadratic.loss_increase(change) / self.units

    def removal(
        self, name: str, mask: Tensor
    ) -> tuple[float, tuple[Matrix, Tensor, Tensor | None]]:
        """Prediction for a layer under a mask, and the change as `Meter.increase` takes it."""
        quadratic = self.quadratic(name)
        new = refit_rows(quadratic, mask, adjust=self.config.refit != "none")
        gain = None
        if self.places[name] is not None and self.config.refit != "none":
            seen = self.evidence.statistics[name]
            gain = (quadratic.weight - new) @ (seen.sum / seen.count).to(new)
        return self.predicted(name, quadratic, new), (self.layers.matrices[name], new, gain)


def run(job: Job) -> Outcome:
    """Judge weights where they are, meet the budget by one price, and refit the survivors.

    Raises:
        InputError: A prior that does not fit, settings of another method, or nothing to mask.
        BudgetError: A budget below what is never masked, or below what a pattern keeps.
    """
    config = job.config or WeightsConfig()
    if not isinstance(config, WeightsConfig):
        raise InputError(f"config must be a WeightsConfig, got {type(config).__name__}")
    layers = layers_of(job)
    if not layers.matrices:
        raise InputError("the model has no linear layer or convolution whose weights can be masked")
    shapes = {
        name: tuple(matrix.of(job.model.get_parameter(name)).shape)
        for name, matrix in layers.matrices.items()
    }
    check_prior(job.prior, shapes)  # type: ignore[arg-type]
    allowed = allowed_cost(job, layers, shapes)  # type: ignore[arg-type]
    notes = list(layers.notes)
    likelihood = recognised(job.task, job.model, job.train)
    settings = config.evidence()
    divided = parts_of(job.train, settings, likelihood)
    fitted = divided[0]
    if isinstance(likelihood, Categorical) and likelihood.unit == "sample":
        likelihood = replace(likelihood, softness=config.softness)
    if likelihood is None and config.probes:
        notes.append("The loss is no likelihood that is known, so outputs of a layer count alike.")
    task = job.task if likelihood is None else replace(job.task, likelihood=likelihood)
    step = _steps(job, config, len(shapes))
    orders: dict[str, Tensor] = {}
    example = example_of(fitted)
    if (
        is_coupled(job.prior) and not is_pattern(job.prior)
        if config.reorder is None
        else config.reorder
    ):
        batch = next(calibration_batches(fitted, config.batch_size))
        model, orders = ordered(job, layers, batch, lambda m: task.logits(m, batch))
        job = replace(job, model=model)
        step("putting units in order")

    def batches() -> Iterator[Any]:
        return calibration_batches(fitted, config.batch_size)

    places = bias_places(job.model, layers.matrices, example, task.run)
    with dense_evidence(
        job, task, likelihood, settings, layers.matrices, places, lambda: None, parts=divided
    ) as evidence:
        step("reading the data")
        units = sum(units_of(task, b) for b in batches())
        state = _Run(
            job, config, layers, places, evidence, job.prior, allowed, units,
        )  # fmt: skip
        state.start()
        masks = _judge(state, step)
        for _ in range(config.rounds):
            _temper(state, masks, step)
            masks = _judge(state, step)
        if config.scale is None:
            state.rescale(masks)
            masks = _judge(state, step)
        forecast, lost, changes = _forecast(state, masks, task.unit, step)
        asked = state.scale_of(masks, lost)
        model = copy.deepcopy(job.model)
        if config.refit == "sequential":
            masks = settle_all(
                job, config, layers.matrices, model, places, evidence.targets,
                _chooser(state, masks), batches, lambda name: step(f"refitting {name}"),
            )  # fmt: skip
        else:
            for name, (matrix, new, gain) in changes.items():
                write(model, name, matrix, new, gain, places[name])
    step.done()
    shaped = {n: layers.matrices[n].back(m, m.new_empty(job.model.get_parameter(n).shape))
              for n, m in masks.items()}  # fmt: skip
    if state.price < 0:
        notes.append(
            "At even odds the data would keep fewer weights than the budget allows; the rest were "
            "kept because the budget allows them."
        )
    keep, read = all_needed(job, model, shaped)
    notes += [*read, SCORES]
    meta = {
        "method": METHOD.name,
        "budget": str(job.budget),
        "seed": job.seed,
        "calibrated": False,
        "calibration": f"{units} {task.unit}s",
        "price": state.price,
        "scale": state.scale,
        "scale_of_masks": asked,
        "predicted_increase": forecast.increase,
        "temperatures": dict(forecast.temperatures),
    }
    return Outcome(
        model=model,
        masks=shaped,
        keep=keep,
        posterior=Posterior(weights=_weights(state), meta=meta),
        prior=METHOD.prior if job.prior is None else repr(job.prior),
        warnings=tuple(notes),
        forecast=forecast,
        orders=orders,
    )


def _judge(state: _Run, step: "_Steps") -> dict[str, Tensor]:
    """Evidence of every layer at the present price, and the masks that it makes."""
    for name in state.layers.matrices:
        state.found[name] = state.believe(name, state.quadratic(name))
        step(f"judging {name}")
    return state.decide()


def _temper(state: _Run, masks: Mapping[str, Tensor], step: "_Steps") -> None:
    """Measure what the masks of each layer cost alone."""
    for name, mask in masks.items():
        predicted, change = state.removal(name, mask)
        own = state.tempering.setdefault(name, Tempering())
        if predicted > 0:
            own.add(predicted, state.evidence.meter.increase({name: change}))
            state.temperature[name] = own.temperature(predicted)
        step(f"trying the removal in {name}")


def _forecast(
    state: _Run, masks: Mapping[str, Tensor], unit: str, step: "_Steps"
) -> tuple[Forecast, dict[str, float], dict[str, Any]]:
    """What the decision should cost, in nats of the loss itself.

    Of each layer alone its tempered prediction, of all together what is measured; beside it what
    layers cost in the nats that tempering is in, and the changes, unless a refit makes its own.
    """
    by_layer, changes = {}, {}
    for name, mask in masks.items():
        predicted, changes[name] = state.removal(name, mask)
        by_layer[name] = state.expected(name, predicted)
        step(f"predicting {name}")
    joint, exchange = Tempering(), 1.0
    total = sum(by_layer.values())
    if state.config.rounds and total > 0:
        increase, exchange = state.evidence.meter.plan(changes)
        joint.add(total, increase)
    forecast = Forecast(
        increase=float(joint(torch.tensor(total, dtype=torch.float64))),
        unit=unit,
        by_axis={name: exchange * lost for name, lost in by_layer.items()},
        temperatures=dict(state.temperature),
        price=exchange * state.price / (state.units * state.scale),
    )
    if state.config.refit == "sequential":
        changes.clear()
    return forecast, by_layer, changes


def _chooser(state: _Run, masks: Mapping[str, Tensor]) -> Callable[[str, Quadratic], Tensor]:
    """Decide a layer anew on the pruned prefix; as many of its weights stay as were decided."""

    def decide(name: str, quadratic: Quadratic) -> Tensor:
        state.found[name] = state.believe(name, quadratic)
        prior = state.found[name].result.prior
        return choose(state.found[name].result.log_odds, prior, int(masks[name].sum()))

    return decide


def _weights(state: _Run) -> dict[str, WeightPosterior]:
    made = {}
    for name, belief in state.found.items():
        parameter = state.job.model.get_parameter(name)
        result, matrix = belief.result, state.layers.matrices[name]
        assert result.kept_mean is not None
        assert result.kept_variance is not None
        values = (result.log_odds, result.probability, result.kept_mean, result.kept_variance)
        made[name] = WeightPosterior(*(matrix.back(v.float(), parameter).float() for v in values))
    return made


class _Steps:
    """Progress over stages whose lengths are known beforehand."""

    def __init__(self, on_step: Callable[[int, int, str], None], total: int) -> None:
        self.on_step, self.total, self.at = on_step, total, 0

    def __call__(self, text: str) -> None:
        self.at = min(self.at + 1, self.total - 1)
        self.on_step(self.at, self.total, text)

    def done(self) -> None:
        self.on_step(self.total, self.total, "done")


def _steps(job: Job, config: WeightsConfig, layers: int) -> _Steps:
    return _Steps(job.on_step, 3 + layers * (3 + 2 * config.rounds + (config.scale is None)))


METHOD = Method(
    name="turbo-vbi-post-weights",
    title="Turbo-VBI after training, for single weights, tiles and N:M patterns",
    source="this package; Martens and Grosse (2015), refit of Hassibi and Stork (1993)",
    run=run,
    evidence="loss of removing a weight on its layer's quadratic, the others integrated out",
    prior="even odds for each weight",
    inference="expectation propagation, site precisions shared by rows; mean field where wide",
    allocation="one price for all layers by bisection, tempered by measured removals",
    recovery="each row's least squares on its mask, sequentially on the pruned prefix",
    speedup="unstructured",
    when="after",
    data="calibration",
    budgets=("params", "macs"),
    probabilistic=True,
    own_rule=True,
)
