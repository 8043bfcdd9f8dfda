"""Field and coupling of each matrix's lattice, from its own posterior."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probcomp.inference.pseudo import learn_lattice
from probcomp.inference.training.config import TurboConfig
from probcomp.inference.training.gates import Graph, Matrix, Messages, support_log_odds
from probcomp.priors import Lattice

STEPS = 2
"""Newton steps a round: the posterior that they fit moves too."""

FEWEST_SITES = 16
"""Smaller lattices keep their prior; two numbers from so few sites say nothing."""


def is_learnable(prior: Any) -> bool:
    """Whether a prior has a field and a coupling to learn: a lattice of two numbers."""
    return isinstance(prior, Lattice) and all(
        isinstance(value, int | float) for value in (prior.field, prior.coupling)
    )


def learn_priors(
    graph: Graph, evidence: Mapping[str, Tensor], messages: Messages, config: TurboConfig
) -> Graph:
    """One step of pseudo-likelihood for each matrix, over the sites of live units.

    The labels are the posterior of the supports themselves, gates left out: a dead unit says
    nothing about how those of live units cluster.
    """
    matrices = dict(graph.matrices)
    for name, matrix in graph.matrices.items():
        if not is_learnable(matrix.prior):
            continue
        odds = support_log_odds(graph, name, evidence[name], messages)
        block = _live_block(matrix, odds, messages)
        if block.numel() < FEWEST_SITES:
            continue
        learnt = learn_lattice(
            matrix.prior, torch.sigmoid(block), steps=STEPS, max_coupling=config.max_coupling
        )
        if config.learn == "coupling":
            learnt = replace(learnt, field=matrix.prior.field)
        matrices[name] = replace(matrix, prior=learnt)
    return replace(graph, matrices=matrices)


def couple(graph: Graph, coupling: float | None) -> Graph:
    """The graph with that coupling in every lattice of two numbers; ``None`` changes nothing."""
    if coupling is None:
        return graph
    matrices = {
        name: replace(matrix, prior=replace(matrix.prior, coupling=coupling))
        if is_learnable(matrix.prior)
        else matrix
        for name, matrix in graph.matrices.items()
    }
    return replace(graph, matrices=matrices)


def _live_block(matrix: Matrix, values: Tensor, messages: Messages) -> Tensor:
    """The rows and columns of live units, in the order the prior sees."""
    values = matrix.sites.to_lattice(values)
    for slot in matrix.slots:
        live = (messages.units[slot.group][slot.index.clamp_min(0)] > 0) | (slot.index < 0)
        side = slot.dim - matrix.sites.rank
        order = matrix.sites.rows if side == -2 else matrix.sites.columns
        live = live if order is None else live[order]
        values = values.index_select(side, live.nonzero().flatten())
    return values
