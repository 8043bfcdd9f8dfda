"""Brute force over all supports: the reference every exact solver is held to."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.priors.base import SupportPrior


@dataclass(frozen=True)
class Enumerated:
    """All supports of one event with their posterior probability."""

    supports: Tensor  # [2^n, *event]
    weight: Tensor  # [2^n], sums to one
    log_z: Tensor

    @property
    def probability(self) -> Tensor:
        return self.mean(self.supports)

    @property
    def log_odds(self) -> Tensor:
        off = self.mean(1 - self.supports)
        return self.probability.log() - off.log()

    def mean(self, values: Tensor) -> Tensor:
        return torch.tensordot(self.weight, values, dims=1)


def all_supports(*event: int) -> Tensor:
    """``[2^n, *event]``, float64."""
    size = math.prod(event)
    rows = list(itertools.product((0.0, 1.0), repeat=size))
    return torch.tensor(rows, dtype=torch.float64).view(-1, *event)


def enumerate_posterior(prior: SupportPrior, log_odds: Tensor) -> Enumerated:
    """The posterior of one event (no batch) by summing over its ``2^n`` supports."""
    supports = all_supports(*log_odds.shape)
    log_prior = prior.log_prob(supports)
    extra = log_prior.dim() - 1  # the event of Independent is its last dimension only
    if extra > 0:
        log_prior = log_prior.flatten(1).sum(-1)
    score = log_prior + (supports * log_odds).flatten(1).sum(-1)
    log_z = torch.logsumexp(score, 0)
    return Enumerated(supports, (score - log_z).exp(), log_z)
