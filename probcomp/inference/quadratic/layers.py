r"""Density and slab of several layers that inform each other, summed over.

A layer of a few dozen units says little about how many of its units are needed and how large kept
weights are: a high density with small weights explains it nearly as well as a low one with large
weights. A point estimate is then sure of what the data leave open. Here inclusion probabilities
average over both,

.. math:: P(s_g = 1 \mid D) = \sum_h q_l(h)\, P(s_g = 1 \mid D_l, h)

with ``h = (density, slab)`` on a grid that is searched from the estimate outwards as long as the
evidence is within `DROP` nats of the best (the exploration of Rue, Martino and Chopin 2009,
"Approximate Bayesian inference for latent Gaussian models by using integrated nested Laplace
approximations", section 3.1, with expectation propagation for Laplace's approximation). Between
its nodes evidence and log-odds are interpolated.

Layers may share their values: they follow a Dirichlet process, in which a layer takes the value of
an earlier one with chance ``1 / (c + l - 1)`` each and else draws its own from :math:`p_0`. Which
layers share is sampled with the values summed out (Neal 2000, "Markov chain sampling methods for
Dirichlet process mixture models", Algorithm 3), and :math:`q_l` averages the posterior
:math:`\propto p_0(h) \prod_{l' \in C(l)} p(D_{l'} \mid h)` of the cluster it is in. Layers that are
alike are thus learnt as one; layers that are not stay apart.

:math:`p_0` is even in the density and in the logarithm of the slab's precision, between a kept
weight of 20 times the dense weights' mean square and one too small to tell: with ``n`` weights a
unit and data precision :math:`\lambda` the squares of noise alone vary by
:math:`\sqrt{2n}/\lambda`, and a slab must add at least half of that, so
:math:`\alpha \le \lambda\sqrt{2n}`.

Notes:
    One layer alone has :math:`p_0` for its prior, and that decides where its data do not: with
    another :math:`p_0` the numbers are others. Hyper-parameters that vary little over layers are
    what makes them calibrated.
"""

import dataclasses
import functools
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.quadratic.group import GroupFactor, GroupResult, check_axis, ep_group
from probcomp.inference.quadratic.group_evidence import log_evidence
from probcomp.inference.quadratic.likelihood import inverse
from probcomp.inference.quadratic.sharing import share_values
from probcomp.inference.quadratic.surface import FINE, Node, refine
from probcomp.priors.independent import Independent

DENSITY_STEP = 1 / 3
"""Grid of the density's log-odds."""
SLAB_STEP = 0.25
"""Grid of the logarithm of the slab, relative to one over the dense weights' mean square."""
DENSEST = 15
"""Densities within this many steps of one half: 0.7 to 99.3 per cent."""
WIDEST = 12
"""Slab variances of at most this many steps, ``e^3``, over the dense weights' mean square."""
DROP = 8.0
"""Nats below the best from which on values are not followed further."""
NEGLIGIBLE = 1e-4
"""A value of less probability need not have converged."""


@dataclass(frozen=True, eq=False)
class _Explored:
    """What one layer says of each value: steps of the density's log-odds and of the slab.

    Attributes:
        best: The result at the node of highest evidence.
        moved: How much a probability moved last at each node that was solved.
        unsettled: Nodes whose inference did not converge.
        iterations: Of all nodes together.
        surface: Log evidence and log-odds of the units on the finer grid, ``[1 + G]``.
        slabs: How many of the coarser steps the slab may take.
        scale: Mean square of each consumer's dense weights where its slab is free, else None.
    """

    best: GroupResult
    moved: dict[Node, float]
    unsettled: set[Node]
    iterations: int
    surface: dict[Node, np.ndarray]
    slabs: int
    scale: tuple[float | None, ...]


def ep_layers(
    layers: Iterable[Sequence[GroupFactor]],
    *,
    concentration: float = 1.0,
    seed: int = 0,
    iterations: int = 60,
    tolerance: float = 1e-3,
    damping: float = 0.2,
) -> list[GroupResult]:
    """Inclusion probabilities of the units of several layers whose density and slabs are unknown.

    Some hundred inferences a layer, each from its neighbour's result: a second for 64 units. A
    layer that says next to nothing has its whole grid searched, some nine hundred. Meant for layers
    of up to a few hundred units; larger ones determine both, and ``ep_group(..., learn=True)``
    estimates them.

    Args:
        layers: The consumers of each layer's units, as `ep_group` takes them. Slabs that a factor
            names stay; a free one is the grid's, relative to that consumer's dense weights. They
            are taken one at a time, and of each its log-odds on the grid are kept and one result:
            a generator holds the matrices of one layer in memory.
        concentration: ``c``: how many layers a value of a layer's own counts for.
        seed: Seed of the draws of which layers share.
        iterations: Most iterations of each inference.
        tolerance: As of `ep_group`.
        damping: As of `ep_group`.

    Returns:
        One result a layer. Its ``prior`` and ``slabs`` are posterior means (of slabs the geometric
        one), ``evidence`` is the averaged log-odds less the prior's, and ``states`` are those of
        the value of most evidence in the layer.

    Raises:
        InputError: No layer, or a concentration that is not positive.
    """
    if not (math.isfinite(concentration) and concentration > 0):
        raise InputError(f"concentration must be positive and finite, got {concentration}")
    options = {"iterations": iterations, "tolerance": tolerance, "damping": damping}
    # A loop's variable would hold a layer while the next one is made.
    explored = list(map(functools.partial(_explore, options=options), layers))
    if not explored:
        raise InputError("layers must hold the consumers of at least one layer, got none")
    shares = _shared(explored, concentration, seed)
    return [_average(e, share) for e, share in zip(explored, shares, strict=True)]


def _explore(factors: Sequence[GroupFactor], options: dict[str, float]) -> _Explored:
    """Evidence and posterior of all values worth a look, from the estimate outwards."""
    check_axis(factors, **options)  # type: ignore[arg-type]
    free = [f.slab is None for f in factors]
    scale = [float(f.quadratic.weight.square().mean()) or 1.0 for f in factors]
    highest = math.floor(_weakest(factors, scale) / SLAB_STEP) if any(free) else 0
    lowest = min(-WIDEST, highest) if any(free) else 0
    guess = ep_group(factors, prior=Independent(0.5), learn=True, **options)  # type: ignore[arg-type]
    density = torch.tensor(guess.prior.density).logit()  # type: ignore[union-attr]
    slab = math.log(guess.slabs[free.index(True)] * scale[free.index(True)]) if any(free) else 0.0
    first = (
        min(max(round(float(density) / DENSITY_STEP), -DENSEST), DENSEST),
        min(max(round(slab / SLAB_STEP), lowest), highest),
    )
    evidence: dict[Node, float] = {}
    found_at: dict[Node, np.ndarray] = {}
    moved, unsettled, solves = {}, set(), 0
    best = guess
    queue, seen = deque([(first, guess)]), {first}
    while queue:
        node, start = queue.popleft()
        here = [
            dataclasses.replace(f, slab=math.exp(node[1] * SLAB_STEP) / square) if open_ else f
            for f, square, open_ in zip(factors, scale, free)
        ]
        prior = Independent(_density(node[0]))
        found = ep_group(here, prior=prior, start=start, **options)  # type: ignore[arg-type]
        evidence[node] = log_evidence(here, found)
        found_at[node] = np.append(evidence[node], found.log_odds.double().cpu().numpy())
        moved[node], solves = found.change, solves + found.iterations
        unsettled |= set() if found.converged else {node}
        best = found if evidence[node] >= max(evidence.values()) else best
        if evidence[node] < max(evidence.values()) - DROP:
            continue
        for step in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            next_ = (node[0] + step[0], node[1] + step[1])
            inside = abs(next_[0]) <= DENSEST and lowest <= next_[1] <= highest
            if inside and next_ not in seen:
                seen.add(next_)
                queue.append((next_, found))
    scales = tuple(square if open_ else None for square, open_ in zip(scale, free))
    surface = refine(found_at)
    return _Explored(best, moved, unsettled, solves, surface, highest - lowest + 1, scales)


def _weakest(factors: Sequence[GroupFactor], scale: Sequence[float]) -> float:
    r"""Logarithm of the highest relative slab precision, :math:`\bar w^2 \lambda \sqrt{2n}`."""
    weights = sum(f.quadratic.rows * f.columns.shape[1] for f in factors)
    relative = []
    for factor, square in zip(factors, scale, strict=True):
        # The slab of dense weights keeps directions without data from being infinitely loose.
        site = factor.quadratic.gram.new_full((factor.quadratic.size,), 1 / square)
        variance = inverse(factor.quadratic.precision, site).diagonal()
        relative.append(square / float(variance.mean()))
    return math.log(sum(relative) / len(relative) * math.sqrt(2 * weights))


def _density(steps: float) -> float:
    return 1 / (1 + math.exp(-steps * DENSITY_STEP))


def _shared(
    explored: Sequence[_Explored], concentration: float, seed: int
) -> list[dict[Node, float]]:
    """``q_l(h)`` of each layer, on its own part of the finer grid."""
    nodes = sorted({node for e in explored for node in e.surface})
    density = torch.tensor([_density(i / FINE) for i, _ in nodes], dtype=torch.double)
    even = _even(density, max(e.slabs for e in explored))
    outside = np.array([-np.inf])
    likely = torch.tensor(
        [[float(e.surface.get(node, outside)[0]) for node in nodes] for e in explored],
        dtype=torch.double,
    )
    q = share_values(likely, even.log(), concentration=concentration, seed=seed)
    return [
        {node: float(p) for node, p in zip(nodes, row, strict=True) if node in e.surface}
        for e, row in zip(explored, q, strict=True)
    ]


def _even(density: Tensor, slabs: int) -> Tensor:
    """``p_0``: even in density on the finer grid of its log-odds, and in the slab's finer steps."""
    return density * (1 - density) * DENSITY_STEP / FINE / (FINE * (slabs - 1) + 1)


def _average(explored: _Explored, weight: dict[Node, float]) -> GroupResult:
    near: dict[Node, float] = {}  # of the nodes that were solved
    for (i, j), w in weight.items():
        node = (round(i / FINE), round(j / FINE))
        near[node] = near.get(node, 0.0) + w
    counted = [node for node in explored.moved if near.get(node, 0.0) > NEGLIGIBLE]
    best = explored.best
    share = torch.tensor(list(weight.values()), dtype=torch.double)
    odds = _mixed(torch.tensor(np.stack([explored.surface[n][1:] for n in weight])), share)
    density = sum(w * _density(i / FINE) for (i, _), w in weight.items())
    step = sum(w * j / FINE for (_, j), w in weight.items()) * SLAB_STEP
    odds = odds.to(best.log_odds)
    return dataclasses.replace(
        best,
        log_odds=odds,
        probability=torch.sigmoid(odds),
        evidence=odds - math.log(density / (1 - density)),
        prior=Independent(density),
        slabs=tuple(
            slab if square is None else math.exp(step) / square
            for slab, square in zip(best.slabs, explored.scale, strict=True)
        ),
        iterations=explored.iterations,
        converged=explored.unsettled.isdisjoint(counted),
        change=max(explored.moved[node] for node in counted),
    )


def _mixed(odds: Tensor, share: Tensor) -> Tensor:
    """Log-odds of the average probability, without rounding at either end."""
    log = share.clamp_min(torch.finfo(share.dtype).tiny).log()[:, None]
    on = (torch.nn.functional.logsigmoid(odds) + log).logsumexp(0)
    return on - (torch.nn.functional.logsigmoid(-odds) + log).logsumexp(0)
