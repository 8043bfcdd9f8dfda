"""Turbo-VBI from a dense network to masks, units and refitted weights."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.inference.posterior import Posterior, UnitPosterior, WeightPosterior
from probcomp.inference.training.build import (
    Cost,
    build_graph,
    check_target,
    tensor_shapes,
    weight_names,
)
from probcomp.inference.training.checkpoint import (
    fingerprint,
    load_checkpoint,
    save_checkpoint,
)
from probcomp.inference.training.config import TurboConfig
from probcomp.inference.training.distillation import check_teacher, distilled
from probcomp.inference.training.engine import Info, State, init, remove_orphans, step
from probcomp.inference.training.evidence import (
    CollapsedGamma,
    Reading,
    Scale,
    WeightEvidence,
)
from probcomp.inference.training.gates import Graph, beliefs, expected_cost
from probcomp.inference.training.layers import Noise, bayesian_layers, from_bayesian, to_bayesian
from probcomp.inference.training.own_weights import check_plain
from probcomp.inference.training.permute import cluster, permuted, permuted_posterior
from probcomp.inference.training.readout import decide, unit_masks
from probcomp.inference.training.refitting import apply_masks, refit
from probcomp.inference.training.schedule import divergence_weight
from probcomp.inference.training.steering import settle, steer
from probcomp.inference.training.units import Slot, UnitGroup, slots
from probcomp.inference.training.weights import BatchSource, Loss, Run, leave_out, terms_of

FINAL_TRIALS = 20
"""Prices tried before the decision; rounds use few, since the next one corrects them."""

ORPHAN_ROUNDS = 30
FULL = 0.99
"""Most times that orphaned units are removed to spend what they cost on the weights of others,
and the share of the budget that counts as spent."""

ORDERING = 1.4
"""Coupling at which a lattice orders without evidence, as loopy belief propagation sees it (1.386);
the density that a budget holds is far from where that happens."""


@dataclass(frozen=True, kw_only=True)
class TurboResult:
    """What Turbo-VBI found.

    Attributes:
        model: Dense-shaped, with means, masked and refitted; its units stand in the order of
            ``orders``.
        posterior: Inclusion probabilities and moments before the refit, in the model's order. With
            a reader, probabilities are read after the decision: a weight or unit may stay below one
            half, or go above it.
        masks: Weight name to booleans of its shape.
        keep: Group name to booleans [size].
        history: One entry for each round.
        refit_history: Mean training loss of each refit epoch, nats for each sample.
        orders: Group name to the original numbers of its units, in the model's order; groups that
            kept their order are absent.
        achieved: Cost of what stays over the dense model's.
        expected: Expected cost over the dense model's, under the beliefs of the decision; not
            under what a reader finds after it.
        price: Price of a unit of cost, nats; negative where the budget is looser than what the
            posterior would keep by itself.
        converged: Whether the rounds ended because nothing moved any more.
        messages_converged: Whether the messages that the probabilities are read from settled.
    """

    model: nn.Module
    posterior: Posterior
    masks: dict[str, Tensor]
    keep: dict[str, Tensor]
    history: list[Info]
    refit_history: list[float]
    orders: dict[str, Tensor]
    achieved: float
    expected: float
    price: float
    converged: bool
    messages_converged: bool


def fit(
    model: nn.Module,
    batches: BatchSource,
    *,
    loss: Loss,
    units: Sequence[UnitGroup] = (),
    prior: Any = None,
    evidence: WeightEvidence | None = None,
    cost: Cost | None = None,
    target: float | None = None,
    config: TurboConfig | None = None,
    seed: int = 0,
    checkpoint: Path | str | None = None,
    on_step: Callable[[Info], None] | None = None,
    reader: Callable[[nn.Module, Mapping[str, Scale]], Reading | None] | None = None,
) -> TurboResult:
    """Train a network under a structured sparse prior, and read off what it needs.

    Args:
        model: Pretrained or fresh; not changed.
        batches: ``batches(epoch)`` iterates over seeded batches; ``samples`` is the number of
            samples in one, and ``terms``, where there is one, of what the loss is a mean of.
        loss: ``loss(model, batch)``, mean negative log-likelihood in nats for each sample.
        units: Groups of units that may be removed; an `Axis` of the structure is one. Those none of
            whose parameters has supports (heads of `torch.nn.MultiheadAttention`, units between
            frozen layers) stay whole, for nothing would judge their units.
        prior: Prior over the supports of each weight matrix, or parameter name to prior. By
            default a lattice with the field and coupling of ``config``.
        evidence: Form of the weight posterior; `CollapsedGamma`
            with ``well_determined`` by default.
        cost: Parameter name to cost of its entries; by default each parameter costs 1.
        target: Share of the total cost that may remain, or ``None`` for what the posterior keeps.
        config: Settings.
        seed: Seed of all noise. The same seed gives the same masks.
        checkpoint: Directory to continue from and to write to after every round.
        on_step: Called after every round.
        reader: ``reader(model, scales)``, the latter by weight name, looks at the likelihood around
            the means, and the posterior's probabilities, those of units too, are read from that;
            the decision is not. By default, and where it raises `InputError` (in
            ``meta["not_read"]``), they are read from the evidence of the last round.

    Raises:
        InputError: Something does not fit; raised before training starts.
        BudgetError: The target leaves some layer without a connection.
        DivergenceError: Training produced a value that is not finite. The checkpoint, if any,
            still holds the last good round.
    """
    config = config or TurboConfig()
    evidence = evidence or CollapsedGamma(well_determined=True, temperature=config.temperature)
    if batches.samples < 1:
        raise InputError("batches hold no samples")
    if prior is None and target is None and config.coupling > ORDERING:
        raise InputError(
            f"a coupling of {config.coupling:g} orders a lattice by itself, above {ORDERING}: name "
            "a target, which holds the density, or lower the coupling"
        )
    if prior is not None and config.coupling_start is not None:
        raise InputError("coupling_start is for the default prior, and another was given")
    check_plain(model)
    first = next(iter(batches(0)), None)
    if first is None:
        raise InputError("the first epoch of the batches is empty")
    check_teacher(loss, model, first, config.refit_teacher)
    dense, model = model, copy.deepcopy(model)
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        noise = Noise(torch.Generator(device).manual_seed(seed))
        to_bayesian(
            model,
            noise,
            linear=config.linear_draw,
            convolution=config.convolution_draw,
            sigma_ratio=config.sigma_ratio,
        )
        slots(units, tensor_shapes(model))  # refuses what does not fit, judged or not
        masked = set(weight_names(model))
        judged = [g for g in units if any(m.parameter in masked for m in g.members)]
        graph = build_graph(model, judged, prior or default_prior(config), cost, config)
        goal = check_target(graph, target)
        weights = sum(layer.weight.numel() for _, layer in bayesian_layers(model))
        full = divergence_weight(config, terms_of(batches), weights)
        run = Run(model, batches, loss, evidence, config, noise, goal, full)
        state = init(run, graph)
        history: list[Info] = []
        identity = {"seed": seed, "config": asdict(config), "prior": repr(prior)}
        identity |= {"evidence": repr(evidence), "target": target}
        identity |= {"samples": batches.samples, "terms": terms_of(batches)}
        if checkpoint is not None:
            identity |= fingerprint(run, graph)
            loaded = load_checkpoint(checkpoint, run, state, identity)
            state, history = loaded or (state, history)
        while state.round < config.rounds and not _settled(state, config):
            state, info = step(run, state)
            history.append(info)
            if checkpoint is not None:
                save_checkpoint(checkpoint, run, state, history, identity)
            if on_step is not None:
                on_step(info)
        found = _finish(run, state, history, dense, judged, seed, reader)
    whole = {g.name: torch.ones(g.size, dtype=torch.bool, device=device) for g in units}
    return replace(found, keep=whole | found.keep)


def default_prior(config: TurboConfig) -> Any:
    """The lattice that ``fit`` uses when no prior is named."""
    from probcomp.priors import Lattice

    return Lattice(field=config.field, coupling=config.coupling)


def _settled(state: State, config: TurboConfig) -> bool:
    return config.stop_change > 0 and state.calm >= 3


def _finish(
    run: Run,
    state: State,
    history: list[Info],
    dense: nn.Module,
    units: Sequence[UnitGroup],
    seed: int,
    reader: Callable[[nn.Module, Mapping[str, Scale]], Reading | None] | None,
) -> TurboResult:
    """Decide, permute, refit."""
    config, graph = run.config, state.graph
    sites = {n: graph.matrices[n].sites.collect(l) for n, l in state.log_odds.items()}
    messages = state.messages
    if run.target is None:
        messages = replace(messages, price=0.0)  # rounds may end while a subsidy still falls
    messages = steer(
        graph,
        sites,
        messages,
        run.target,
        sweeps=2 * config.sweeps,
        trials=FINAL_TRIALS,
        reach=0.1,
    )
    decision = decide(graph, sites, messages, units, run.target)
    for _ in range(ORPHAN_ROUNDS):
        if run.target is None or decision.cost >= FULL * run.target or messages.price < 0:
            break
        graph = remove_orphans(graph, sites, messages)
        messages = steer(graph, sites, messages, run.target, sweeps=config.sweeps)
        decision = decide(graph, sites, messages, units, run.target)
    # A negative price spends a loose budget; it is no belief, so probabilities are read without it.
    believed, agreed = settle(graph, sites, replace(messages, price=max(messages.price, 0.0)))
    expected = expected_cost(graph, sites, believed) / graph.total
    moments = _moments(run)
    model = from_bayesian(run.model).eval()
    scales = {n: Scale(state.slab[n], config.kappa_end) for n in moments}
    reading, meta = None, {}
    try:
        reading = reader(model, scales) if reader is not None else None
    except InputError as error:  # what was trained is worth more than its probabilities
        meta = {"not_read": str(error)}
    if reading is not None:
        end = replace(believed, price=0.0)
        sites = {
            n: graph.matrices[n].sites.collect(likelihood.evidence(scales[n]))
            for n, likelihood in reading.likelihoods.items()
        }
        believed, agreed = settle(graph, sites, end)
    posterior = _posterior(run, graph, sites, believed, moments, seed)
    if reading is not None:
        meta = {"read": "after the decision", **reading.meta}
    posterior = replace(posterior, meta={**posterior.meta, **meta})
    masks, keep = dict(decision.masks), dict(decision.keep)
    shapes = tensor_shapes(model)
    gates = slots(units, shapes)
    apply_masks(model, _all_masks(model, masks, keep, gates))
    orders = {}
    if config.permute and units:
        batch = next(iter(run.batches(0)))
        orders = cluster(model, graph, masks, keep, units, gates, lambda m: run.loss(m, batch))
        masks = {n: permuted(m, gates[n], orders) for n, m in masks.items()}
        keep = {n: k[orders[n]] if n in orders else k for n, k in keep.items()}
        posterior = permuted_posterior(posterior, gates, orders)
    refit_history = _refit(run, model, state, _all_masks(model, masks, keep, gates), dense)
    model.train(dense.training)
    return TurboResult(
        model=model,
        posterior=posterior,
        masks=masks,
        keep=keep,
        history=history,
        refit_history=refit_history,
        orders=orders,
        achieved=decision.cost / graph.total,
        expected=expected,
        price=messages.price,
        converged=_settled(state, config),
        messages_converged=agreed,
    )


def _refit(
    run: Run, model: nn.Module, state: State, masks: dict[str, Tensor], dense: nn.Module
) -> list[float]:
    """Refit in place, without computing what the masks leave out."""
    config = run.config
    to_bayesian(model, Noise(active=False))
    layers = {f"{n}.weight" if n else "weight": m for n, m in bayesian_layers(model)}
    leave_out(layers, masks)
    history = refit(
        model,
        run.batches,
        loss=distilled(run.loss, dense, share=config.refit_teacher),
        masks=masks,
        steps=config.refit_steps,
        epochs=config.refit_epochs,
        learning_rate=config.refit_rate,
        weight_decay=config.refit_decay,
        place=state.place,
    )
    from_bayesian(model)
    return history


def _all_masks(
    model: nn.Module,
    masks: dict[str, Tensor],
    keep: dict[str, Tensor],
    gates: dict[str, tuple[Slot, ...]],
) -> dict[str, Tensor]:
    """Masks of the weights and of everything that goes with a unit."""
    parameters = {name for name, _ in model.named_parameters()}
    whole = unit_masks(keep, gates, tensor_shapes(model))
    return {n: m for n, m in whole.items() if n in parameters} | masks


def _moments(run: Run) -> dict[str, tuple[Tensor, Tensor]]:
    """Posterior mean and variance of each weight."""
    return {
        name: (layer.weight.detach().clone(), torch.exp(2 * layer.weight_log_sigma.detach()))
        for name, layer in run.layers.items()
    }


def _posterior(
    run: Run,
    graph: Graph,
    sites: Any,
    messages: Any,
    moments: dict[str, tuple[Tensor, Tensor]],
    seed: int,
) -> Posterior:
    belief = beliefs(graph, sites, messages)
    weights = {}
    for name, (mean, variance) in moments.items():
        odds = graph.matrices[name].sites.expand(belief[name]).contiguous()
        weights[name] = WeightPosterior(odds, torch.sigmoid(odds), mean, variance)
    groups = {n: UnitPosterior(t, torch.sigmoid(t)) for n, t in messages.units.items()}
    meta = {
        "method": "turbo-vbi",
        "evidence": repr(run.evidence),
        "seed": seed,
        "samples": run.batches.samples,
        "terms": terms_of(run.batches),
        "price_nats": messages.price,
        "kl_weight": run.kl_weight,
        "temperature": run.config.temperature,
    }
    return Posterior(weights, groups, meta)
