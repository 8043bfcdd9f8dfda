"""Log-odds of one support given all others under a prior: what Gibbs sampling needs."""

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.pseudo import neighbour_sum
from probcomp.priors.base import SupportPrior, as_tensor, logit
from probcomp.priors.counting import ExactK, NofM
from probcomp.priors.independent import Independent
from probcomp.priors.lattice import Lattice


def check_samplable(prior: SupportPrior | None) -> None:
    """Refuse priors under which single flips cannot reach every support."""
    if isinstance(prior, ExactK | NofM):
        raise InputError(
            f"{type(prior).__name__} fixes the number of supports, so flipping one at a time never "
            "moves; use ep_shared or ep_group under this prior"
        )


def conditional(prior: SupportPrior | None, support: Tensor, column: int) -> Tensor:
    """``log P(s_j = 1 | rest) - log P(s_j = 0 | rest)`` in one column, nats.

    Args:
        prior: A support prior that single flips can explore, or None.
        support: Zeros and ones, floating, ``[*batch, N]`` or ``[rows, N]`` of a lattice.
        column: ``j``.

    Returns:
        ``[*batch]`` or ``[rows]``. Rows of a lattice are neighbours: use `together`.
    """
    if prior is None:
        return torch.zeros_like(support[..., column])
    if isinstance(prior, Independent):
        return logit(as_tensor(prior.density, support)).expand(support.shape)[..., column]
    if isinstance(prior, Lattice):
        near = slice(max(column - 1, 0), column + 2)
        around = neighbour_sum(support[..., near])[..., column - near.start]
        field = prior.site_field(support).expand(support.shape)[..., column]
        return field + as_tensor(prior.coupling, support) * around
    if prior.event_dim > 1:
        raise InputError(
            f"Gibbs sampling of weights knows no conditional of {type(prior).__name__}; use a "
            "prior over the last dimension, a Lattice, or ep_shared"
        )
    on, off = support.clone(), support.clone()
    on[..., column], off[..., column] = 1, 0
    return prior.log_prob(on) - prior.log_prob(off)


def together(prior: SupportPrior | None, rows: int) -> list[Tensor]:
    """Sets of rows that are independent given the others within one column."""
    every = torch.arange(rows)
    if isinstance(prior, Lattice) and rows > 1:
        return [every[::2], every[1::2]]
    return [every]
