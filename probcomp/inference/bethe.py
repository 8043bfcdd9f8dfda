r"""The Bethe approximation of a lattice: pairs and the log of the sum over all supports."""

import functools

import torch
from torch import Tensor

from probcomp.inference.lattice_messages import (
    ODDS_LIMIT,
    Messages,
    product,
    reversals,
    run,
    senders,
)
from probcomp.inference.solver import Options
from probcomp.priors.base import as_tensor, is_plain, over_batch
from probcomp.priors.lattice import Lattice, grid_degree

PRIOR_SWEEPS = 500  # without evidence messages settle slowly near the ordering


def pair_probabilities(odds: Tensor, gain: Tensor, messages: Messages) -> tuple[Tensor, Tensor]:
    """``P(1, 1)`` as ``P(s_j = 1) P(s_i = 1 | s_j = 1)``, across and down."""
    belief = product(odds, messages)
    on = belief / (1 + belief)
    first = gain * belief[..., :, :-1] / messages.from_right
    second = gain * belief[..., :-1, :] / messages.from_below
    return on[..., :, 1:] * first / (1 + first), on[..., 1:, :] * second / (1 + second)


def bethe_log_z(odds: Tensor, gain: Tensor, messages: Messages) -> Tensor:
    r"""Bethe approximation of ``log sum_s exp(<h + l, s> + J sum s s')``, in nats.

    .. math:: \sum_{(ij)} \ln(1 + x_i + x_j + e^J x_i x_j) + \sum_i (1 - \deg_i) \ln(1 + B_i)

    with cavity odds ``x``. It is stationary in the messages, so their error enters squared.
    """
    belief = product(odds, messages)
    degree = grid_degree(*belief.shape[-2:]).to(belief.device, belief.dtype)
    edges = torch.zeros_like(belief[..., 0, 0], dtype=torch.float64)
    directions = list(zip(senders(belief), reversals(messages)))
    for (one, to_one), (two, to_two) in (directions[:2], directions[2:]):
        x, y = one / to_one, two / to_two
        # ln(1 + x + y + g x y) = ln(1 + x) + ln(1 + y (1 + g x) / (1 + x)): no overflow
        forward = gain - (gain - 1) / (1 + x)
        terms = torch.log1p(x) + torch.log1p(y * forward)
        edges = edges + terms.sum((-2, -1), dtype=torch.float64)
    sites = ((1 - degree) * torch.log1p(belief)).sum((-2, -1), dtype=torch.float64)
    return edges + sites


def with_gradient(base: Tensor, coupling: Tensor, messages: Messages) -> Tensor:
    """The Bethe value, with its exact gradient at a fixed point: the beliefs."""
    with torch.no_grad():
        odds, gain = base.exp(), coupling.exp()
        value = bethe_log_z(odds, gain, messages)
        belief = product(odds, messages)
        probability = belief / (1 + belief)
    if not (torch.is_grad_enabled() and (base.requires_grad or coupling.requires_grad)):
        return value
    moved = (probability * (base - base.detach())).sum((-2, -1))
    if coupling.requires_grad:
        with torch.no_grad():
            across, down = pair_probabilities(odds, gain, messages)
            count = across.sum((-2, -1)) + down.sum((-2, -1))
        change = coupling - coupling.detach()
        moved = moved + count * (change[..., 0, 0] if change.dim() else change)
    return value + moved


def prior_log_z(prior: Lattice, evidence: Tensor, options: Options) -> Tensor:
    """The Bethe value without evidence, kept in a cache where the parameters are numbers."""
    rows, cols = evidence.shape[-2:]
    if is_plain(prior.field) and is_plain(prior.coupling):
        value = _cached_log_z(
            float(prior.field), float(prior.coupling), rows, cols, evidence.dtype, evidence.device
        )
        return torch.tensor(value, dtype=torch.float64, device=evidence.device)
    empty = torch.zeros(rows, cols, dtype=evidence.dtype, device=evidence.device)
    field = prior.site_field(empty)
    coupling = over_batch(prior.coupling, empty, 2)
    base = field.clamp(-ODDS_LIMIT, ODDS_LIMIT)
    with torch.no_grad():
        calm = Options(
            damping=options.damping, tolerance=options.tolerance, max_iterations=PRIOR_SWEEPS
        )
        messages, _, _ = run(base.detach(), coupling.detach(), calm)
    return with_gradient(base, coupling, messages)


@functools.lru_cache(maxsize=256)
def _cached_log_z(
    field: float, coupling: float, rows: int, cols: int, dtype: torch.dtype, device: torch.device
) -> float:
    empty = torch.zeros(rows, cols, dtype=dtype, device=device)
    base = Lattice(field, coupling).site_field(empty).clamp(-ODDS_LIMIT, ODDS_LIMIT)
    strength = as_tensor(coupling, empty)
    messages, _, _ = run(base, strength, Options(max_iterations=PRIOR_SWEEPS))
    return float(bethe_log_z(base.exp(), strength.exp(), messages))
