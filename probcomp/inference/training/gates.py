r"""Unit gates and weight supports together: sum-product in log-odds.

A weight ``n`` of a matrix is kept when its own support ``r_n`` is on and every unit it belongs to
is on: :math:`s_n = r_n \prod_k t_{k}`. The factor graph has

* a prior over the supports ``r`` of each matrix (a lattice, a chain, ...);
* a gate ``t`` for each unit, shared by all slices of that unit in all parameters;
* for each weight the factor :math:`\exp(l_n s_n)`, where ``l`` is the evidence less the price.

With :math:`a` the product of the other members' cavity probabilities, the factor's message to any
of its members, as log-odds, is

.. math:: m = \ln\big[(1 - a) + a e^{l}\big].

The log-odds of the support without its own evidence, :math:`\psi_n = \mathrm{logit}(P(r_n)
\prod_k P(t_k))` with cavity probabilities, go back to the weights; the belief is
:math:`\psi_n + l_n`. Exact on trees (one gate for each row, independent supports); on loopy graphs
it is loopy belief propagation (Kschischang, Frey and Loeliger 2001, eq. 5 and 6).

Notes:
    A negative price, where the budget is looser than the beliefs, is a subsidy on the weights of
    units that are needed anyway. Gates do not feel it in the end but stay as they are: else units
    that nothing needs would be kept to spend the budget. While the cost aimed at is still falling
    they do (``subsidise``): evidence that is only forming must not remove units ahead of that
    schedule, for the weights of a unit believed dead shrink, and it does not come back.

    Where both sides of a weight belong to the same unit (the diagonal of a square matrix in a
    residual stream) the two gates are one variable counted as two. Its share of the weights is one
    in the width of the layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.supports import Marginals, marginals
from probcomp.inference.training.sites import Sites
from probcomp.inference.training.units import Slot

CLIP = 30.0
"""Limit on evidence and on gates, nats: e^30 is far past any decision and safe in float32."""

GATE_CLIP = 2 * CLIP
"""Limit on a gate's log-odds before its own message is taken out."""

INNER_SWEEPS = 5
INNER_TOLERANCE = 1e-3
"""Sweeps inside a lattice for each sweep of the graph. They start from the last ones, and gates
change in between, so more would be spent on numbers about to move."""

REMOVED = -1e4
"""Prior log-odds of a unit that was removed for good; no evidence reaches that far."""


@dataclass(frozen=True)
class Matrix:
    """A parameter with a support for each site.

    Attributes:
        sites: How the parameter's weights map to sites.
        prior: Prior over the supports of one matrix of sites.
        slots: Gates on the rows (dim -2) and columns (dim -1) of the sites; see `Sites.slots`.
        cost: Cost of a site, broadcasts over the sites.
        transposed: Whether the weight is [in, out, ...]: then columns are what it produces.
        charge: What a site pays for each nat of the price; ``None`` for its cost.
    """

    sites: Sites
    prior: Any
    slots: tuple[Slot, ...]
    cost: Tensor
    transposed: bool = False
    charge: Tensor | None = None

    @property
    def charged(self) -> Tensor:
        """What a site pays for each nat of the price."""
        return self.cost if self.charge is None else self.charge

    def net(self, evidence: Tensor, price: float) -> Tensor:
        """Evidence of the sites less what they pay, clipped, nats."""
        return (evidence - price * self.charged).clamp(-CLIP, CLIP)


@dataclass(frozen=True)
class Gated:
    """A parameter without supports of its own that goes with its units: a bias, a norm weight."""

    slots: tuple[Slot, ...]
    cost: Tensor
    charge: Tensor | None = None


@dataclass(frozen=True)
class Graph:
    """The factor graph; fixed during a run except for orders and removed units.

    Attributes:
        matrices: Parameter name to its matrix.
        gated: Parameter name to what only gates remove.
        fields: Group name to the prior log-odds of its units, [size].
        constant: Cost that nothing removes.
        damping: Share of the old message kept in each sweep.
    """

    matrices: Mapping[str, Matrix]
    gated: Mapping[str, Gated]
    fields: Mapping[str, Tensor]
    constant: float = 0.0
    damping: float = 0.3

    @property
    def total(self) -> float:
        """Cost of the dense model."""
        whole = [m.cost.expand(m.sites.shape).double().sum() for m in self.matrices.values()]
        whole += [g.cost.double().sum() for g in self.gated.values()]
        return self.constant + float(sum(whole))


@dataclass(frozen=True)
class MatrixMessages:
    """Messages of one matrix; all of the sites' shape.

    Attributes:
        prior: Log-odds of ``r`` without the weight's own factor.
        slots: Message of each weight's factor to each of its gates.
        psi: Log-odds of ``s`` without the weight's own factor.
        state: What the prior's inference starts from in the next sweep.
        converged: Whether that inference converged.
    """

    prior: Tensor
    slots: tuple[Tensor, ...]
    psi: Tensor
    state: Any = None
    converged: bool = True


@dataclass(frozen=True)
class Messages:
    """Everything that passes on the graph.

    Attributes:
        units: Group name to posterior log-odds of its units, [size].
        matrices: Parameter name to its messages.
        price: Price of a unit of cost, nats.
    """

    units: Mapping[str, Tensor]
    matrices: Mapping[str, MatrixMessages]
    price: float = 0.0
    change: float = field(default=float("inf"))


def start(graph: Graph) -> Messages:
    """Messages before any evidence.

    Raises:
        InputError: A prior does not fit its matrix; names it.
    """
    matrices = {}
    for name, matrix in graph.matrices.items():
        zero = matrix.cost.new_zeros(matrix.sites.shape)
        try:
            result = _solve(matrix.prior, zero, None)
        except InputError as error:
            shape = tuple(matrix.sites.shape)
            raise InputError(f"the prior does not fit {name}, sites {shape}: {error}") from None
        psi = _extrinsic(result.log_odds, _cavities(matrix, graph.fields, ()))
        blank = tuple(zero.clone() for _ in matrix.slots)
        matrices[name] = MatrixMessages(result.log_odds, blank, psi)
    return Messages(dict(graph.fields), matrices)


def sweep(
    graph: Graph,
    evidence: Mapping[str, Tensor],
    messages: Messages,
    price: float,
    *,
    subsidise: bool = False,
) -> Messages:
    """One pass over all matrices: supports, then gates.

    Args:
        graph: The factor graph.
        evidence: Parameter name to evidence of its sites, nats.
        messages: Where to start.
        price: Price of a unit of cost, nats.
        subsidise: Whether gates feel a negative price; otherwise they stay as they are under one.

    Returns:
        New messages; ``change`` is the largest change of a unit's or weight's probability.
    """
    hold = price < 0 and not subsidise
    units = dict(messages.units) if hold else _totals(graph, messages, price)
    matrices, change = {}, 0.0
    for name, matrix in graph.matrices.items():
        old = messages.matrices[name]
        l = matrix.net(evidence[name], price)
        new = _matrix(graph, matrix, l, old, units, hold)
        matrices[name] = new
        moved = torch.sigmoid(new.psi + l) - torch.sigmoid(old.psi + l)
        change = max(change, float(moved.abs().max()))
    return Messages(units, matrices, price, change)


def _totals(graph: Graph, messages: Messages, price: float) -> dict[str, Tensor]:
    """Log-odds of the units, rebuilt from all that is said to them.

    So the price of what only gates remove is always the current one, and rounding does not build
    up.
    """
    units = {name: field.clone() for name, field in graph.fields.items()}
    for entry in graph.gated.values():
        _charge(entry, messages.units, units, price)
    for name, matrix in graph.matrices.items():
        for slot, message in zip(matrix.slots, messages.matrices[name].slots, strict=True):
            units[slot.group] += slot.gather(message, len(units[slot.group]))
    return units


def _matrix(
    graph: Graph,
    matrix: Matrix,
    l: Tensor,
    old: MatrixMessages,
    units: dict[str, Tensor],
    hold: bool,
) -> MatrixMessages:
    """Update one matrix, and ``units`` in place with its new messages unless they are held."""
    cavities = _cavities(matrix, units, old.slots)
    upward = _mix(_sum(cavities), l) if cavities else l
    sites = matrix.sites
    result = _solve(matrix.prior, sites.to_lattice(upward), old.state)
    prior = sites.from_lattice(result.log_odds) - upward
    fresh = old.slots
    if not hold:
        fresh = _to_gates(graph, matrix, l, prior, cavities, old.slots, units)
        cavities = _cavities(matrix, units, fresh)
    psi = _extrinsic(prior, cavities)
    return MatrixMessages(prior, fresh, psi, result.state, result.converged)


def _to_gates(
    graph: Graph,
    matrix: Matrix,
    l: Tensor,
    prior: Tensor,
    cavities: list[Tensor],
    old: tuple[Tensor, ...],
    units: dict[str, Tensor],
) -> tuple[Tensor, ...]:
    """What each weight's factor says to each of its gates; ``units`` follow in place."""
    log_r = torch.nn.functional.logsigmoid(prior)
    fresh = []
    for k, (slot, message) in enumerate(zip(matrix.slots, old, strict=True)):
        others = [c for j, c in enumerate(cavities) if j != k]
        new = torch.lerp(_mix(_sum([log_r, *others]), l), message, graph.damping)
        units[slot.group] += slot.gather(new - message, len(units[slot.group]))
        fresh.append(new)
    return tuple(fresh)


def _solve(prior: Any, log_odds: Tensor, state: Any) -> Marginals:
    """Marginals of a matrix's prior, as far as one sweep of the whole graph needs them."""
    return marginals(
        prior,
        log_odds,
        start=state,
        max_iterations=INNER_SWEEPS,
        tolerance=INNER_TOLERANCE,
        method="loopy",
        need_log_z=False,
        # A budget keeps the density far from the symmetric point, where strong couplings order by
        # themselves; whether messages settle is checked where probabilities are read.
        on_unreliable="ignore",
    )


def _cavities(
    matrix: Matrix, units: Mapping[str, Tensor], messages: tuple[Tensor, ...]
) -> list[Tensor]:
    """``ln P(t=1)`` of each gate of each weight, without that weight's own message."""
    logs = []
    for k, slot in enumerate(matrix.slots):
        total = slot.spread(units[slot.group].clamp(-GATE_CLIP, GATE_CLIP), matrix.sites.rank, CLIP)
        cavity = total - messages[k] if messages else total
        logs.append(torch.nn.functional.logsigmoid(cavity))
    return logs


def _sum(logs: list[Tensor]) -> Tensor:
    total = logs[0]
    for other in logs[1:]:
        total = total + other
    return total


def _mix(log_a: Tensor, l: Tensor) -> Tensor:
    """``ln[(1 - a) + a exp(l)]``, without loss for ``a`` near 0 or 1."""
    return torch.log(torch.exp(log_a + l) - torch.expm1(log_a))


def _extrinsic(prior: Tensor, cavities: list[Tensor]) -> Tensor:
    """``logit(P(r) prod_k P(t_k))``."""
    if not cavities:
        return prior
    log_p = torch.nn.functional.logsigmoid(prior) + _sum(cavities)
    return log_p - torch.log((-torch.expm1(log_p)).clamp_min(1e-30))


def _charge(
    entry: Gated, current: Mapping[str, Tensor], units: dict[str, Tensor], price: float
) -> None:
    """Field on the gates for what only they remove; a second gate enters by its probability."""
    for k, slot in enumerate(entry.slots):
        cost = entry.cost if entry.charge is None else entry.charge
        for j, other in enumerate(entry.slots):
            if j != k:
                gate = torch.sigmoid(current[other.group])
                cost = cost * other.spread(gate, cost.dim(), 1.0)
        units[slot.group] -= price * slot.gather(cost, len(units[slot.group]))


def beliefs(graph: Graph, evidence: Mapping[str, Tensor], messages: Messages) -> dict[str, Tensor]:
    """Posterior log-odds of the sites of each parameter, price included."""
    return {
        name: messages.matrices[name].psi + matrix.net(evidence[name], messages.price)
        for name, matrix in graph.matrices.items()
    }


def support_log_odds(graph: Graph, name: str, evidence: Tensor, messages: Messages) -> Tensor:
    """Posterior log-odds of the supports ``r`` of one matrix, whatever its gates say."""
    matrix, own = graph.matrices[name], messages.matrices[name]
    l = matrix.net(evidence, messages.price)
    cavities = _cavities(matrix, messages.units, own.slots)
    return own.prior + (_mix(_sum(cavities), l) if cavities else l)


def expected_cost(graph: Graph, evidence: Mapping[str, Tensor], messages: Messages) -> float:
    """``E[cost]`` under the current beliefs, in the cost's own unit."""
    total = graph.constant
    for name, belief in beliefs(graph, evidence, messages).items():
        total += float((torch.sigmoid(belief) * graph.matrices[name].cost).sum(dtype=torch.double))
    for entry in graph.gated.values():
        kept = entry.cost
        for slot in entry.slots:
            gate = torch.sigmoid(messages.units[slot.group])
            kept = kept * slot.spread(gate, kept.dim(), 1.0)
        total += float(kept.sum(dtype=torch.double))
    return total


def remove(graph: Graph, dead: Mapping[str, Tensor]) -> Graph:
    """The graph with the units in ``dead`` (group name to booleans) off for good."""
    fields = {
        name: values.masked_fill(dead[name], REMOVED) if name in dead else values
        for name, values in graph.fields.items()
    }
    return replace(graph, fields=fields)


def connections(graph: Graph, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The smaller of the numbers of weights that make a unit and that read it, [size] each.

    Args:
        graph: The factor graph.
        kept: Parameter name to support of its sites: probabilities, or zeros and ones.

    Returns:
        Group name to counts; infinite for units that a parameter without supports also makes or
        reads (an embedding), since such a unit never loses its last connection.
    """
    sides: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for name, matrix in graph.matrices.items():
        for slot in matrix.slots:
            produces = (slot.dim == matrix.sites.rank - 2) != matrix.transposed
            count = slot.gather(kept[name], len(graph.fields[slot.group]))
            side = sides[produces]
            side[slot.group] = side[slot.group] + count if slot.group in side else count
    open_groups = {
        s.group for entry in graph.gated.values() if entry.cost.dim() > 1 for s in entry.slots
    }
    least = {}
    for name, values in graph.fields.items():
        least[name] = torch.full_like(values, float("inf"))
        for side in sides:
            if name in side and name not in open_groups:
                least[name] = torch.minimum(least[name], side[name])
    return least
