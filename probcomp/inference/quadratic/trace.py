"""Averages over a Markov chain of probabilities, and how far off they may be."""

import torch
from torch import Tensor

from probcomp.errors import InputError

EDGE = 1e-12
"""Averages stay this far from 0 and 1, where log-odds would be infinite."""

BATCHES = 10
"""Batch means behind a standard error."""


def check_sweeps(sweeps: int, burn: int) -> None:
    """Refuse counts that are out of range."""
    if sweeps < 1 or burn < 0:
        raise InputError(f"sweeps must be at least 1 and burn at least 0, got {sweeps} and {burn}")


def log_odds(probability: Tensor) -> Tensor:
    """Log-odds of an average."""
    return torch.logit(probability, eps=EDGE)


def standard_error(trace: Tensor) -> float:
    """Largest standard error of a mean over the first dimension, by batch means."""
    batches = min(BATCHES, len(trace))
    if batches < 2:
        return float("inf")
    means = torch.stack([part.mean(0) for part in trace.tensor_split(batches)])
    return float((means.var(0) / batches).sqrt().max())
