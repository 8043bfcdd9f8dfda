r"""The outer loop of Turbo-VBI at training time: weights, evidence, messages.

One round is

1. the weight step: some epochs of Adam on
   :math:`\frac1B\sum_b \mathrm{NLL}_b(w\sim q) + \frac{\beta}{|D|}\sum_n \mathrm{KL}_n` with
   :math:`\mathrm{KL}_n = \frac12[E\rho_n(\mu_n^2+\sigma_n^2) - \ln\sigma_n^2 - E\ln\rho_n - 1]`,
   whose gradients, :math:`E\rho\,\mu` and :math:`E\rho\,\sigma^2 - 1` (by :math:`\ln\sigma`), are
   added in closed form;
2. the evidence ``l`` of each weight in closed form;
3. message passing over supports and unit gates, with the price that meets the cost target;
4. the slab scale of each layer by EM: :math:`v \leftarrow \sum_n p_n E[w_n^2] / \sum_n p_n`.

Only ``l`` goes to the structure, and only ``psi`` (belief less ``l``) comes back.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from probcomp.errors import DivergenceError
from probcomp.inference.training.build import reorder
from probcomp.inference.training.config import TurboConfig
from probcomp.inference.training.evidence import Scale, WeightEvidence, Weights
from probcomp.inference.training.gates import (
    REMOVED,
    Graph,
    Messages,
    beliefs,
    connections,
    expected_cost,
    remove,
    start,
)
from probcomp.inference.training.layers import Noise, bayesian_layers
from probcomp.inference.training.steering import steer

SLAB = 4.0
ORPHAN_TIES = 0.5
ORPHAN_SHARE = 0.25
"""Units that expect fewer weights on a side are orphans; the share of them removed in a round."""

DEAD_LOG_SIGMA = -12.0
"""Log sigma of the weights of a removed unit: no noise that float32 would see."""


class BatchSource(Protocol):
    """Seeded epochs of batches."""

    samples: int

    def __call__(self, epoch: int) -> Iterable[Any]:
        """The batches of one epoch; the same epoch gives the same batches."""


Loss = Callable[[nn.Module, Any], Tensor]


@dataclass
class Run:
    """What a run works on; the model, the optimiser and the noise change in place.

    Attributes:
        model: Has Bayesian layers.
        batches: The data.
        loss: Mean negative log-likelihood of a batch, nats for each sample.
        evidence: Form of the posterior over weights, precisions and supports.
        config: Settings.
        noise: Source of the layers' noise.
        target: Expected cost to reach, in the cost's unit, or ``None``.
        optimizer: Adam over all parameters: the log sigmas are its second group.
    """

    model: nn.Module
    batches: BatchSource
    loss: Loss
    evidence: WeightEvidence
    config: TurboConfig
    noise: Noise
    target: float | None
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        sigmas = [layer.weight_log_sigma for _, layer in bayesian_layers(self.model)]
        known = {id(p) for p in sigmas}
        means = [p for p in self.model.parameters() if p.requires_grad and id(p) not in known]
        self.optimizer = torch.optim.Adam(
            [
                {"params": means, "lr": self.config.learning_rate},
                {"params": sigmas, "lr": self.config.sigma_rate},
            ],
            fused=True,
        )

    @property
    def layers(self) -> dict[str, Any]:
        """Weight name to Bayesian layer."""
        return {f"{n}.weight" if n else "weight": m for n, m in bayesian_layers(self.model)}


@dataclass(frozen=True)
class State:
    """Where a run stands between two rounds; dictionaries go by weight name.

    Attributes:
        graph: The factor graph, with current orders and removed units.
        messages: Messages on it.
        log_odds: Evidence ``l`` of each weight, nats, the weight's shape.
        psi: Log-odds of each weight's support without its own evidence.
        precision: Precision of the Gaussian prior of the weight step.
        slab: Mean square of a kept weight.
        orders: Group name to unit numbers in their current places.
        round: Rounds done.
        calm: Rounds in a row without a notable change.
    """

    graph: Graph
    messages: Messages
    log_odds: Mapping[str, Tensor]
    psi: Mapping[str, Tensor]
    precision: Mapping[str, Tensor]
    slab: Mapping[str, float]
    orders: Mapping[str, Tensor] = field(default_factory=dict)
    round: int = 0
    calm: int = 0
    slab0: Any = None

    @property
    def probability(self) -> dict[str, Tensor]:
        """Inclusion probability of each weight."""
        return {n: torch.sigmoid(self.psi[n] + l) for n, l in self.log_odds.items()}


@dataclass(frozen=True)
class Info:
    """What happened in a round.

    Attributes:
        round: Rounds done, this one included.
        nll: Mean negative log-likelihood of the training draws, nats for each sample.
        kl: Weight name to the divergence of its weights, precisions and supports, nats.
        keep: Expected cost kept over the dense model's.
        target: The share aimed at in this round, or ``None``.
        price: Price of a unit of cost, nats.
        density: Weight name to mean inclusion probability.
        units: Group name to expected number of units kept.
        kappa: Spike over slab mean square.
        kl_weight: Weight of the divergence.
        change: Mean change of an inclusion probability since the last round.
        bp_converged: Whether every prior's inference converged in the last sweep.
        seconds_weights: Time of the weight step.
        seconds_messages: Time of evidence and message passing.
    """

    round: int
    nll: float
    kl: Mapping[str, float]
    keep: float
    target: float | None
    price: float
    density: Mapping[str, float]
    units: Mapping[str, float]
    kappa: float
    kl_weight: float
    change: float
    bp_converged: bool
    seconds_weights: float
    seconds_messages: float


def init(run: Run, graph: Graph) -> State:
    """The state before any round: prior messages, no evidence."""
    messages = start(graph)
    psi, log_odds, precision, slab = {}, {}, {}, {}
    for name, layer in run.layers.items():
        weight = layer.weight.detach()
        psi[name] = graph.matrices[name].sites.expand(messages.matrices[name].psi).clone()
        log_odds[name] = torch.zeros_like(weight)
        slab[name] = max(float(weight.square().mean()), 1e-12)
        precision[name] = torch.full_like(weight, 1 / slab[name])
    return State(graph, messages, log_odds, psi, precision, slab, slab0=dict(slab))


def step(run: Run, state: State) -> tuple[State, Info]:
    """One round.

    Raises:
        DivergenceError: The loss, a gradient or a parameter is not finite; names the layer.
    """
    config, done = run.config, state.round / run.config.rounds
    kl_weight = config.kl_weight * _ramp(done + 1 / config.rounds, config.kl_warmup)
    kappa = config.kappa_start * (config.kappa_end / config.kappa_start) ** _ramp(
        done, config.kappa_rounds
    )
    began = time.perf_counter()
    nll = weight_step(run, state, kl_weight)
    middle = time.perf_counter()

    scale = {name: Scale(slab, kappa) for name, slab in state.slab.items()}
    before = state.probability
    weights = _moments(run, state, before)
    log_odds = {
        name: run.evidence.update(weights[name], state.psi[name], scale[name]).log_odds
        for name in weights
    }
    graph, orders, messages = state.graph, state.orders, state.messages
    sites = {n: graph.matrices[n].sites.collect(l) for n, l in log_odds.items()}
    if config.order_every and state.round % config.order_every == 0 and graph.fields:
        supports = {n: torch.sigmoid(b) for n, b in beliefs(graph, sites, messages).items()}
        graph, orders = reorder(graph, supports)
        messages = _forget(messages)
    aim = None
    if run.target is not None:
        whole, share = graph.total, _ramp(done + 1 / config.rounds, config.target_rounds)
        # Geometric from all of the cost to the target: equal factors in equal times.
        aim = whole * (run.target / whole) ** share
    messages = steer(graph, sites, messages, aim, sweeps=config.sweeps, trials=config.trials)
    belief = beliefs(graph, sites, messages)
    psi = {n: graph.matrices[n].sites.expand(belief[n]) - l for n, l in log_odds.items()}
    after = {n: torch.sigmoid(psi[n] + l) for n, l in log_odds.items()}
    if done >= config.freeze_after:
        graph = _freeze(run, graph, sites, messages)

    precision, slab, kl = {}, {}, {}
    for name, moments in weights.items():
        update = run.evidence.update(
            replace(moments, probability=after[name]), psi[name], scale[name]
        )
        precision[name] = update.precision
        kl[name] = update.divergence + _support_divergence(psi[name], log_odds[name])
        kept = after[name].sum()
        mean_square = (after[name] * moments.square).sum() / kept.clamp_min(1e-12)
        # A layer that is all but off would lose its scale: it keeps the last one.
        slab[name] = float(mean_square) if float(kept) >= 1 else state.slab[name]
        if SLAB: slab[name]=min(max(slab[name], state.slab0[name]/SLAB), state.slab0[name]*SLAB)
    moved = sum(float((after[n] - before[n]).abs().sum()) for n in after)
    change = moved / sum(p.numel() for p in after.values())
    settled = done >= max(config.kl_warmup, config.kappa_rounds, config.target_rounds)
    calm = state.calm + 1 if settled and change < config.stop_change else 0
    new = State(graph, messages, log_odds, psi, precision, slab, orders, state.round + 1, calm, state.slab0)
    _check(run, new)
    info = Info(
        round=new.round,
        nll=nll,
        kl=kl,
        keep=expected_cost(graph, sites, messages) / graph.total,
        target=None if aim is None else aim / graph.total,
        price=messages.price,
        density={n: float(p.mean()) for n, p in after.items()},
        units={n: float(torch.sigmoid(t).sum()) for n, t in messages.units.items()},
        kappa=kappa,
        kl_weight=kl_weight,
        change=change,
        bp_converged=all(m.converged for m in messages.matrices.values()),
        seconds_weights=middle - began,
        seconds_messages=time.perf_counter() - middle,
    )
    return new, info


def weight_step(run: Run, state: State, kl_weight: float) -> float:
    """Some epochs of Adam on the expected loss plus the divergence; the mean loss."""
    config = run.config
    fall = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * state.round / config.rounds))
    for group, rate in zip(
        run.optimizer.param_groups, (config.learning_rate, config.sigma_rate), strict=True
    ):
        group["lr"] = rate * fall
    pull = kl_weight / run.batches.samples
    layers = run.layers
    dead = {n: d for n, d in _dead_weights(state.graph).items() if bool(d.any())}
    run.model.train()
    total, count = 0.0, 0
    for epoch in range(state.round * config.epochs, (state.round + 1) * config.epochs):
        for batch in run.batches(epoch):
            run.optimizer.zero_grad(set_to_none=True)
            loss = run.loss(run.model, batch)
            value = loss.item()
            if not math.isfinite(value):
                raise DivergenceError(_blame(run, f"the loss is {value} in epoch {epoch}"))
            loss.backward()
            add_divergence(layers, state.precision, pull)
            run.optimizer.step()
            for name, gone in dead.items():
                _silence(run.model, name, gone)
            total, count = total + value, count + 1
    return total / max(count, 1)


@torch.no_grad()
def add_divergence(
    layers: Mapping[str, Any], precision: Mapping[str, Tensor], pull: float
) -> None:
    """Add ``pull`` times the gradient of each layer's divergence to the gradients there are."""
    for name, layer in layers.items():
        mean, log_sigma = layer.weight, layer.weight_log_sigma
        if mean.grad is None or log_sigma.grad is None:
            continue  # a layer the loss did not reach
        mean.grad.addcmul_(precision[name], mean, value=pull)
        slope = torch.exp(2 * log_sigma).mul_(precision[name]).sub_(1)
        log_sigma.grad.add_(slope, alpha=pull)


def _ramp(done: float, over: float) -> float:
    """0 to 1 over a share of the run."""
    return 1.0 if over <= 0 else min(done / over, 1.0)


def _moments(run: Run, state: State, probability: Mapping[str, Tensor]) -> dict[str, Weights]:
    return {
        name: Weights(
            layer.weight.detach(),
            torch.exp(2 * layer.weight_log_sigma.detach()),
            state.precision[name],
            probability[name],
        )
        for name, layer in run.layers.items()
    }


def _support_divergence(psi: Tensor, l: Tensor) -> float:
    """``KL(Bern(psi + l) || Bern(psi))`` summed: each support against its prior from the rest."""
    p = torch.sigmoid(psi + l)
    softplus = torch.nn.functional.softplus
    return float((p * l - softplus(psi + l) + softplus(psi)).sum())


def _forget(messages: Messages) -> Messages:
    """Drop the priors' inner messages, which belong to an order that has changed."""
    matrices = {n: replace(m, state=None) for n, m in messages.matrices.items()}
    return replace(messages, matrices=matrices)


def _freeze(run: Run, graph: Graph, sites: Mapping[str, Tensor], messages: Messages) -> Graph:
    """Remove for good what is as good as dead, and silence it in the model."""
    edge = math.log(run.config.freeze_below / (1 - run.config.freeze_below))
    dead = {name: value < edge for name, value in messages.units.items()}
    graph = remove_orphans(remove(graph, dead), sites, messages)
    for name, gone in _dead_weights(graph).items():
        if bool(gone.any()):
            _silence(run.model, name, gone)
    return graph


def remove_orphans(graph: Graph, sites: Mapping[str, Tensor], messages: Messages) -> Graph:
    """Remove the worst of the units that expect less than half a weight on one of their sides.

    The price makes weights leave before the gates notice that nothing makes or reads their unit.
    A share at a time, since the cost that goes with one unit is spent on the weights of others.
    """
    kept = {n: torch.sigmoid(b) for n, b in beliefs(graph, sites, messages).items()}
    dead = {}
    for name, ties in connections(graph, kept).items():
        alive = graph.fields[name] > REMOVED
        poor = alive & (ties < ORPHAN_TIES)
        worst = math.ceil(ORPHAN_SHARE * int(poor.sum()))
        order = torch.argsort(ties.masked_fill(~poor, float("inf")), stable=True)
        dead[name] = torch.zeros_like(alive).index_fill(0, order[:worst], True)
    return remove(graph, dead)


def _dead_weights(graph: Graph) -> dict[str, Tensor]:
    """Parameter name to booleans that broadcast to it: entries of removed units."""
    dead = {}
    for name, entry in (*graph.matrices.items(), *graph.gated.items()):
        rank = len(entry.sites.weight_shape) if hasattr(entry, "sites") else entry.cost.dim()
        shift = entry.sites.rank - 2 if hasattr(entry, "sites") else 0
        gone: Tensor | None = None
        for slot in entry.slots:
            removed = (graph.fields[slot.group] <= REMOVED).float()
            here = replace(slot, dim=slot.dim - shift).spread(removed, rank, 0.0) > 0
            gone = here if gone is None else gone | here
        if gone is not None:
            dead[name] = gone
    return dead


@torch.no_grad()
def _silence(model: nn.Module, name: str, gone: Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    getattr(module, leaf).masked_fill_(gone, 0.0)
    log_sigma = module._parameters.get(f"{leaf}_log_sigma")
    if log_sigma is not None:
        log_sigma.masked_fill_(gone, DEAD_LOG_SIGMA)


def _blame(run: Run, what: str) -> str:
    for name, parameter in run.model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"{what}: parameter {name} is not finite; lower learning_rate or sigma_rate"
    return f"{what}: all parameters are finite; look at the data or lower learning_rate"


def _check(run: Run, state: State) -> None:
    for name, parameter in run.model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise DivergenceError(
                f"parameter {name} is not finite after round {state.round}; "
                "lower learning_rate or sigma_rate"
            )
    for name, l in state.log_odds.items():
        if not bool(torch.isfinite(l + state.psi[name]).all()):
            raise DivergenceError(f"the evidence of {name} is not finite in round {state.round}")
