r"""Parameters of a prior from its own posterior: EM where pairs are exact, else pseudo-likelihood.

``learn`` picks the step by the prior's type. A step is cheap and is meant to alternate with
``marginals``.
"""

import dataclasses
import functools

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.pseudo import learn_lattice
from probcomp.inference.solver import Marginals
from probcomp.priors.base import SupportPrior
from probcomp.priors.blocks import Blocks
from probcomp.priors.chain import Chain, GatedChain
from probcomp.priors.counting import ExactK, NofM
from probcomp.priors.independent import Independent
from probcomp.priors.lattice import Lattice
from probcomp.priors.tree import Tree

__all__ = ["learn", "learn_chain", "learn_gated_chain", "learn_lattice", "learn_tree"]

FLOOR = 1e-6
"""Probabilities stay this far from 0 and 1: at the ends EM stops moving, whatever the data."""


def learn_chain(prior: Chain, posterior: Marginals, *, floor: float = FLOOR) -> Chain:
    r"""One EM step for a chain, pooled over the batch.

    .. math:: p_{01} \leftarrow \frac{\sum_t P(s_t=0, s_{t+1}=1)}{\sum_t P(s_t=0)},\qquad
              p_{10} \leftarrow \frac{\sum_t P(s_t=1, s_{t+1}=0)}{\sum_t P(s_t=1)}

    The first site's dependence on the transition probabilities is left out of the step, as is
    usual (Rabiner 1989, eq. 40b), so the evidence may fall by the order of one site's share; on
    many or long chains it rises.

    Args:
        prior: The chain whose posterior this is.
        posterior: ``marginals(prior, log_odds)``, at least two sites long.
        floor: The result stays within ``[floor, 1 - floor]``.

    Raises:
        InputError: A posterior without neighbour pairs.
    """
    on, pair = posterior.probability, _pairs(posterior)
    before, after = on[..., :-1].sum(), on[..., 1:].sum()
    both = pair.sum()
    sites = on[..., :-1].numel()
    return Chain(
        _share(after - both, sites - before, prior.p01, floor),
        _share(before - both, before, prior.p10, floor),
    )


def learn_gated_chain(
    prior: GatedChain, posterior: Marginals, *, floor: float = FLOOR
) -> GatedChain:
    r"""One EM step for gates and chain: only open rows speak for the chain.

    .. math:: g \leftarrow \frac1R \sum_r P(t_r = 1),\qquad
              p_{01} \leftarrow \frac{\sum_r \sum_j P(t_r=1, s_{rj}=0, s_{r,j+1}=1)}
                                     {\sum_r \sum_j P(t_r=1, s_{rj}=0)}

    Args:
        prior: The gated chain whose posterior this is.
        posterior: ``marginals(prior, log_odds)``; its ``gate`` holds the rows' gates.
        floor: All three results stay within ``[floor, 1 - floor]``.
    """
    if posterior.gate is None:
        raise InputError("learn_gated_chain needs the posterior of a GatedChain, with its gates")
    on, pair, gate = posterior.probability, _pairs(posterior), posterior.gate.probability
    steps = on.shape[-1] - 1
    before, after, both = on[..., :-1].sum(), on[..., 1:].sum(), pair.sum()
    chain = Chain(
        _share(after - both, gate.sum() * steps - before, prior.chain.p01, floor),
        _share(before - both, before, prior.chain.p10, floor),
    )
    return GatedChain(min(max(float(gate.mean()), floor), 1 - floor), chain)


def learn_tree(prior: Tree, posterior: Marginals, *, floor: float = FLOOR) -> Tree:
    r"""One EM step for a tree with one density, persistence and leak for all nodes.

    .. math:: q \leftarrow \frac{\sum_n P(s_n=1, s_{\rm parent}=1)}{\sum_n P(s_{\rm parent}=1)},
              \qquad
              r \leftarrow \frac{\sum_n P(s_n=1, s_{\rm parent}=0)}{\sum_n P(s_{\rm parent}=0)}

    A leak of 0 stays 0: nested supports are a constraint, not an estimate.
    """
    on, pair = posterior.probability, _pairs(posterior)
    parents = torch.tensor(prior.parents, device=on.device)
    child = parents >= 0
    above = on[..., parents[child]]
    both, alone = pair[..., child], on[..., child]
    leak: float | Tensor = prior.leak
    if isinstance(leak, Tensor) or leak > 0:
        leak = _share((alone - both).sum(), (1 - above).sum(), leak, floor)
    return Tree(
        prior.parents,
        min(max(float(on[..., ~child].mean()), floor), 1 - floor),
        _share(both.sum(), above.sum(), prior.persistence, floor),
        leak,
    )


def _pairs(posterior: Marginals) -> Tensor:
    if not isinstance(posterior.pair, Tensor) or posterior.pair.numel() == 0:
        raise InputError(
            "learning needs neighbour statistics: the posterior of a Chain, GatedChain or Tree "
            "with at least two supports"
        )
    return posterior.pair


def _share(part: Tensor, whole: Tensor, old: float | Tensor, floor: float) -> float:
    """``part / whole``, or the old value where nothing was seen."""
    if float(whole) <= 0:
        return float(torch.as_tensor(old).mean())
    return min(max(float(part / whole), floor), 1 - floor)


@functools.singledispatch
def learn(prior: SupportPrior, posterior: Marginals) -> SupportPrior:
    """One learning step for any prior with something to learn; ``ExactK`` and ``NofM`` return.

    Blocks learn the prior over their tiles. ``learn.register(MyPrior)`` enters a step for a new
    prior.
    """
    raise InputError(
        f"no learning step for the prior {type(prior).__name__}; "
        "enter one with probcomp.inference.learning.learn.register"
    )


learn.register(Chain, learn_chain)
learn.register(GatedChain, learn_gated_chain)
learn.register(Tree, learn_tree)
learn.register(Lattice, learn_lattice)


@learn.register
def _learn_independent(prior: Independent, posterior: Marginals) -> Independent:
    return Independent(min(max(float(posterior.probability.mean()), FLOOR), 1 - FLOOR))


@learn.register
def _learn_blocks(prior: Blocks, posterior: Marginals) -> Blocks:
    if posterior.gate is None:
        raise InputError("learning Blocks needs the posterior of Blocks, with that of its tiles")
    return dataclasses.replace(prior, over=learn(prior.over, posterior.gate))


@learn.register(ExactK)
@learn.register(NofM)
def _fixed(prior: ExactK | NofM, posterior: Marginals) -> ExactK | NofM:
    return prior
