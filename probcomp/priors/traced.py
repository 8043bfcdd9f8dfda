"""Log probabilities in another array library: ``xp`` is ``jax.numpy``, or NumPy in tests.

Each is the formula of the prior's own ``log_prob`` without its checks, since traced values have
none. Parameters that are tensors become arrays, without gradient.
"""

import functools
import math
from typing import Any

from torch import Tensor

from probcomp.priors.base import SupportPrior, log_binomial
from probcomp.priors.blocks import Blocks
from probcomp.priors.chain import Chain, GatedChain
from probcomp.priors.counting import ExactK, NofM
from probcomp.priors.independent import Independent
from probcomp.priors.lattice import Lattice, grid_degree
from probcomp.priors.tree import Tree

Array = Any


@functools.singledispatch
def log_prob_in(prior: SupportPrior, s: Array, xp: Any) -> Array:
    """``prior.log_prob(s)`` for an array ``s`` of float zeros and ones."""
    raise NotImplementedError(type(prior).__name__)


def _array(value: float | Tensor, xp: Any) -> Array:
    return xp.asarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)


def _log_bernoulli(s: Array, probability: Array, xp: Any) -> Array:
    return xp.log(xp.where(s == 1, probability, 1 - probability))


@log_prob_in.register
def _independent(prior: Independent, s: Array, xp: Any) -> Array:
    return _log_bernoulli(s, _array(prior.density, xp), xp).sum(-1)


@log_prob_in.register
def _chain(prior: Chain, s: Array, xp: Any) -> Array:
    p01, p10 = _array(prior.p01, xp), _array(prior.p10, xp)
    start = _log_bernoulli(s[..., 0], p01 / (p01 + p10), xp)
    chance = xp.where(s[..., :-1] == 1, 1 - p10[..., None], p01[..., None])
    return start + _log_bernoulli(s[..., 1:], chance, xp).sum(-1)


@log_prob_in.register
def _gated(prior: GatedChain, s: Array, xp: Any) -> Array:
    gate = _array(prior.gate, xp)
    opened = xp.log(gate) + _chain(prior.chain, s, xp)
    empty = (s == 0).all(-1)
    return xp.where(empty, xp.logaddexp(opened, xp.log(1 - gate)), opened)


@log_prob_in.register
def _lattice(prior: Lattice, s: Array, xp: Any) -> Array:
    rows, cols = s.shape[-2:]
    coupling = _array(prior.coupling, xp)
    degree = _array(grid_degree(rows, cols), xp)
    site = _array(prior.field, xp) - 0.5 * coupling[..., None, None] * degree
    across = (s[..., :, 1:] * s[..., :, :-1]).sum((-2, -1))
    down = (s[..., 1:, :] * s[..., :-1, :]).sum((-2, -1))
    energy = (site * s).sum((-2, -1)) + coupling * (across + down)
    return energy - _array(prior.log_normaliser(rows, cols), xp)


@log_prob_in.register
def _exact_k(prior: ExactK, s: Array, xp: Any) -> Array:
    prior.check_size(s.shape[-1])
    return xp.where(s.sum(-1) == prior.k, -log_binomial(s.shape[-1], prior.k), -math.inf)


@log_prob_in.register
def _n_of_m(prior: NofM, s: Array, xp: Any) -> Array:
    groups = s.reshape(*s.shape[:-1], prior.groups(s.shape[-1]), prior.m)
    return _exact_k(ExactK(prior.n), groups, xp).sum(-1)


@log_prob_in.register
def _tree(prior: Tree, s: Array, xp: Any) -> Array:
    prior.check_size(s.shape[-1])
    parents = xp.asarray(prior.parents)
    above = s[..., xp.maximum(parents, 0)]
    density, on, off = (_array(p, xp) for p in (prior.density, prior.persistence, prior.leak))
    chance = xp.where(parents < 0, density, xp.where(above == 1, on, off))
    return _log_bernoulli(s, chance, xp).sum(-1)


@log_prob_in.register
def _blocks(prior: Blocks, s: Array, xp: Any) -> Array:
    rows, cols = s.shape[-2:]
    # Each entry against the first of its tile; a tile is one node, seen through that entry.
    first = s[..., :: prior.tile[0], :: prior.tile[1]]
    full = xp.repeat(xp.repeat(first, prior.tile[0], -2), prior.tile[1], -1)
    uniform = (full[..., :rows, :cols] == s).all((-2, -1))
    log_prob = log_prob_in(prior.over, first, xp)
    if prior.over.event_dim == 1:
        log_prob = log_prob.sum(-1)
    return xp.where(uniform, log_prob, -math.inf)
