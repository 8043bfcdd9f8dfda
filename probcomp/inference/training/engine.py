r"""The outer loop of Turbo-VBI at training time: weights, evidence, messages.

One round is

1. the weight step: some epochs of Adam on
   :math:`\frac1B\sum_b \mathrm{NLL}_b(w\sim q) + \frac{\beta}{|D|}\sum_n \mathrm{KL}_n` with
   :math:`\mathrm{KL}_n = \frac12[E\rho_n(\mu_n^2+\sigma_n^2) - \ln\sigma_n^2 - E\ln\rho_n - 1]`,
   whose gradients, :math:`E\rho\,\mu` and :math:`E\rho\,\sigma^2 - 1` (by :math:`\ln\sigma`), are
   added in closed form;
2. the evidence ``l`` of each weight in closed form;
3. message passing over supports and unit gates, with the price that meets the cost target;
4. field and coupling of the priors by pseudo-likelihood, where asked for;
5. the slab scale of each layer by EM: :math:`v \leftarrow \sum_n p_n E[w_n^2] / \sum_n p_n`.

Only ``l`` goes to the structure, and only ``psi`` (belief less ``l``) comes back.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from probcomp.errors import DivergenceError
from probcomp.inference.training.build import reorder
from probcomp.inference.training.evidence import Scale, Weights
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
from probcomp.inference.training.learning import couple, learn_priors
from probcomp.inference.training.schedule import plan
from probcomp.inference.training.steering import MOVING, TOLERANCE, steer
from probcomp.inference.training.weights import Run, dead_entries, silence, weight_step

SLAB_REACH = 4.0
"""Factor by which EM may move a slab scale from the dense layer's mean square. Without a limit it
runs away: a larger slab counts only larger weights as kept, which makes it larger still."""

ORPHAN_TIES = 0.5
ORPHAN_SHARE = 0.25
"""Units that expect fewer weights on a side are orphans; the share of them removed in a round."""


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
        first_slab: The same before the first round.
        orders: Group name to unit numbers in their current places.
        round: Rounds done.
        place: The epoch of the data, and the batch in it, with which the next round begins.
        calm: Rounds in a row without a notable change.
    """

    graph: Graph
    messages: Messages
    log_odds: Mapping[str, Tensor]
    psi: Mapping[str, Tensor]
    precision: Mapping[str, Tensor]
    slab: Mapping[str, float]
    first_slab: Mapping[str, float]
    orders: Mapping[str, Tensor] = field(default_factory=dict)
    round: int = 0
    place: tuple[int, int] = (0, 0)
    calm: int = 0

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
        target: The share aimed at in this round.
        price: Price of a unit of cost, nats.
        density: Weight name to mean inclusion probability.
        units: Group name to expected number of units kept.
        kappa: Spike over slab mean square.
        kl_weight: Weight of the divergence.
        change: Sum of the changes of all inclusion probabilities over the expected number of
            weights kept.
        bp_converged: Whether every prior's inference converged in the last sweep.
        seconds_weights: Time of the weight step.
        seconds_messages: Time of evidence and message passing.
    """

    round: int
    nll: float
    kl: Mapping[str, float]
    keep: float
    target: float
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
    return State(graph, messages, log_odds, psi, precision, slab, dict(slab))


def step(run: Run, state: State) -> tuple[State, Info]:
    """One round.

    Raises:
        DivergenceError: The loss, a gradient or a parameter is not finite; names the layer.
    """
    config = run.config
    goal = plan(config, state.round, state.graph.total, run.target, run.kl_weight)
    began = time.perf_counter()
    nll, place = weight_step(run, state.graph, state.precision, state.place, goal)
    middle = time.perf_counter()

    scale = {name: Scale(slab, goal.kappa) for name, slab in state.slab.items()}
    before = state.probability
    weights = _moments(run, state, before)
    log_odds = {
        name: run.evidence.update(weights[name], state.psi[name], scale[name]).log_odds
        for name in weights
    }
    graph = couple(state.graph, goal.coupling)
    orders, messages = state.orders, state.messages
    sites = {n: graph.matrices[n].sites.collect(l) for n, l in log_odds.items()}
    if config.order_every and state.round % config.order_every == 0 and graph.fields:
        supports = {n: torch.sigmoid(b) for n, b in beliefs(graph, sites, messages).items()}
        graph, orders = reorder(graph, supports)
        messages = _forget(messages)
    messages = steer(
        graph,
        sites,
        messages,
        goal.aim,
        sweeps=config.sweeps,
        trials=config.trials,
        ceiling=goal.ceiling,
        subsidise=goal.subsidise,
        tolerance=TOLERANCE if goal.settled else MOVING,
    )
    if config.learn != "nothing" and state.round >= config.learn_after * config.rounds:
        graph = learn_priors(graph, sites, messages, config)
    belief = beliefs(graph, sites, messages)
    psi = {n: graph.matrices[n].sites.expand(belief[n]) - l for n, l in log_odds.items()}
    after = {n: torch.sigmoid(psi[n] + l) for n, l in log_odds.items()}
    spends = messages.price < 0 and not goal.subsidise  # gates do not feel such a price
    if state.round >= config.freeze_after * config.rounds and not spends:
        graph = _freeze(run, graph, sites, messages)

    precision, slab, kl = {}, {}, {}
    for name, moments in weights.items():
        update = run.evidence.update(
            replace(moments, probability=after[name]), psi[name], scale[name]
        )
        precision[name] = update.precision
        # Of sites: weights that share a support diverge from its prior once.
        kl[name] = update.divergence + _support_divergence(belief[name] - sites[name], sites[name])
        slab[name] = _slab(after[name], moments.square, state.slab[name], state.first_slab[name])
    moved = sum(float((after[n] - before[n]).abs().sum()) for n in after)
    change = moved / max(sum(float(p.sum()) for p in after.values()), 1.0)
    calm = state.calm + 1 if goal.settled and change < config.stop_change else 0
    new = replace(
        state,
        graph=graph,
        messages=messages,
        log_odds=log_odds,
        psi=psi,
        precision=precision,
        slab=slab,
        orders=orders,
        round=state.round + 1,
        place=place,
        calm=calm,
    )
    _check(run, new)
    info = Info(
        round=new.round,
        nll=nll,
        kl=kl,
        keep=expected_cost(graph, sites, messages) / graph.total,
        target=goal.aim / graph.total,
        price=messages.price,
        density={n: float(p.mean()) for n, p in after.items()},
        units={n: float(torch.sigmoid(t).sum()) for n, t in messages.units.items()},
        kappa=goal.kappa,
        kl_weight=goal.kl_weight,
        change=change,
        bp_converged=all(m.converged for m in messages.matrices.values()),
        seconds_weights=middle - began,
        seconds_messages=time.perf_counter() - middle,
    )
    return new, info


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
    """``KL(Bern(psi + l) || Bern(psi))`` of sites, summed: each against its prior from the rest."""
    p = torch.sigmoid(psi + l)
    softplus = torch.nn.functional.softplus
    return float((p * l - softplus(psi + l) + softplus(psi)).sum())


def _slab(probability: Tensor, square: Tensor, last: float, first: float) -> float:
    """EM of a slab scale; a layer that is all but off would lose its scale and keeps the last."""
    kept = float(probability.sum())
    if kept < 1:
        return last
    mean_square = float((probability * square).sum()) / kept
    return min(max(mean_square, first / SLAB_REACH), first * SLAB_REACH)


def _forget(messages: Messages) -> Messages:
    """Drop the priors' inner messages, which belong to an order that has changed."""
    matrices = {n: replace(m, state=None) for n, m in messages.matrices.items()}
    return replace(messages, matrices=matrices)


def _freeze(run: Run, graph: Graph, sites: Mapping[str, Tensor], messages: Messages) -> Graph:
    """Remove for good what is as good as dead, and silence it in the model."""
    edge = math.log(run.config.freeze_below / (1 - run.config.freeze_below))
    dead = {name: value < edge for name, value in messages.units.items()}
    graph = remove_orphans(remove(graph, dead), sites, messages)
    for name, gone in dead_entries(graph).items():
        if bool(gone.any()):
            silence(run.model, name, gone)
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
