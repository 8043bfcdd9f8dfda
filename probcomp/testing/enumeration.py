"""Brute force over all supports: the reference every exact solver is held to."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.priors.base import SupportPrior

MAX_SITES = 20


@dataclass(frozen=True)
class Enumerated:
    """All supports of one event with their posterior probability.

    Attributes:
        supports: ``[2^n, *event]``, zeros and ones.
        weight: Posterior probability of each, ``[2^n]``.
        log_z: ``log sum_s p(s) exp(<l, s>)``, nats.
    """

    supports: Tensor
    weight: Tensor
    log_z: Tensor

    @property
    def probability(self) -> Tensor:
        """``P(s=1)``, ``[*event]``."""
        return self.mean(self.supports)

    @property
    def log_odds(self) -> Tensor:
        """Log-odds of the marginals, both sides summed on their own, ``[*event]``."""
        return self.probability.log() - self.mean(1 - self.supports).log()

    def mean(self, values: Tensor) -> Tensor:
        """Posterior mean of values ``[2^n, ...]`` of each support."""
        return torch.tensordot(self.weight, values, dims=1)


def all_supports(*event: int) -> Tensor:
    """``[2^n, *event]``, float64."""
    size = math.prod(event)
    if size > MAX_SITES:
        raise InputError(f"enumeration is for at most {MAX_SITES} sites, got {size}")
    rows = list(itertools.product((0.0, 1.0), repeat=size))
    return torch.tensor(rows, dtype=torch.float64).view(-1, *event)


def enumerate_posterior(prior: SupportPrior, log_odds: Tensor) -> Enumerated:
    """The posterior of one float64 event ``log_odds`` by summing over its ``2^n`` supports."""
    supports = all_supports(*log_odds.shape)
    # A prior over the last dimension sees the others as batch: its log probabilities add up.
    log_prior = (
        prior.log_prob(supports).flatten(1).sum(-1)
        if log_odds.dim() > prior.event_dim
        else prior.log_prob(supports)
    )
    score = log_prior + (supports * log_odds).flatten(1).sum(-1)
    log_z = torch.logsumexp(score, 0)
    return Enumerated(supports, (score - log_z).exp(), log_z)
