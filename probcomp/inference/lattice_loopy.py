r"""Loopy belief propagation on lattices, in odds instead of log-odds.

With odds :math:`B_i = e^{h_i + l_i} \prod_k M_{k \to i}` a message is

.. math:: M_{i \to j} = \frac{1 + e^J x}{1 + x}
          = e^J - (e^J - 1) \frac{M_{j \to i}}{M_{j \to i} + B_i},\qquad x = B_i / M_{j \to i},

which needs no exponential and no logarithm: a sweep is a handful of multiplications and one
division for each directed edge. Messages stay in ``[e^-|J|, e^|J|]``.
"""

import functools
import warnings
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from probcomp.errors import ConvergenceError, InputError
from probcomp.inference.solver import Marginals, Options, finish
from probcomp.priors.base import as_tensor, is_plain, over_batch
from probcomp.priors.lattice import Lattice, grid_degree

RELIABLE_COUPLING = 1.4  # the Bethe approximation orders at 4 artanh(1/3) = 1.386
ODDS_LIMIT = 40.0  # log-odds; e^40 leaves float32 room for fields and messages
CHECK_EVERY = 5
GRADIENT_SWEEPS = 20  # terms of the series that gives the derivative of a fixed point
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-8}


class Messages(NamedTuple):
    """Odds passed along each edge: from the left, right, above and below."""

    from_left: Tensor  # [..., R, C - 1], into columns 1..
    from_right: Tensor  # [..., R, C - 1], into columns ..C - 2
    from_above: Tensor  # [..., R - 1, C], into rows 1..
    from_below: Tensor  # [..., R - 1, C], into rows ..R - 2


def solve_loopy(prior: Lattice, evidence: Tensor, options: Options) -> Marginals:
    """Damped flooding from ``options.start``; ``log_z`` is the Bethe difference to no evidence."""
    _refuse_strong(prior, options)
    field = prior.site_field(evidence).expand(evidence.shape)
    coupling = over_batch(prior.coupling, evidence, 2)
    clipped = (field + evidence).clamp(-ODDS_LIMIT, ODDS_LIMIT)
    with torch.no_grad():
        messages, converged, sweeps = run(clipped.detach(), coupling.detach(), options)
    if torch.is_grad_enabled() and (clipped.requires_grad or coupling.requires_grad):
        live = _differentiable(messages, clipped.exp(), coupling.exp())
    else:
        live = messages
    extrinsic = _add_incoming(field, live)
    pair = _pairs(clipped.exp(), coupling.exp(), live)
    if options.need_log_z:
        surplus = (field + evidence - clipped).clamp_min(0).sum((-2, -1))
        log_z = _with_gradient(clipped, coupling, messages) + surplus
        log_z = log_z - _prior_log_z(prior, evidence, options)
    else:
        log_z = torch.full_like(evidence[..., 0, 0], torch.nan)
    return finish(
        evidence, extrinsic, log_z, pair=pair,
        converged=converged, exact=False, iterations=sweeps, state=messages,
    )  # fmt: skip


def run(base: Tensor, coupling: Tensor, options: Options) -> tuple[Messages, bool, int]:
    """Sweeps until no message changes by more than the tolerance, in place, without gradient."""
    odds, gain = base.exp(), coupling.exp()
    messages = _start(options.start, base, gain)
    tolerance = options.tolerance or TOLERANCE[base.dtype]
    belief = torch.empty_like(odds)
    room = Messages(*(torch.empty_like(m) for m in messages))
    for sweep in range(1, options.max_iterations + 1):
        _belief(odds, messages, out=belief)
        _new_messages(belief, messages, gain, room)
        check = sweep % CHECK_EVERY == 0 or sweep == options.max_iterations
        if check:
            pairs = zip(room, messages)
            change = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
        for old, new in zip(messages, room):
            old.lerp_(new, 1 - options.damping)
        if check and change < tolerance:
            return messages, True, sweep
    return messages, False, options.max_iterations


def _start(start: Messages | None, base: Tensor, gain: Tensor) -> Messages:
    """The given messages, or those of a prior with field 0, which are ``e^(J/2)`` exactly."""
    shapes = [m.shape for m in (base[..., :, 1:], base[..., 1:, :])]
    if start is None:
        across, down = (gain.sqrt().expand(shape).clone() for shape in shapes)
        return Messages(across, across.clone(), down, down.clone())
    if [start[0].shape, start[2].shape] != shapes:
        raise InputError(
            f"the warm start belongs to a lattice with {tuple(start[0].shape)} edges across, this "
            f"one has {tuple(shapes[0])}; pass start=None after a change of shape"
        )
    return Messages(*(m.detach().to(base, copy=True) for m in start))


def _belief(odds: Tensor, messages: Messages, out: Tensor) -> Tensor:
    out.copy_(odds)
    out[..., :, 1:].mul_(messages.from_left)
    out[..., :, :-1].mul_(messages.from_right)
    out[..., 1:, :].mul_(messages.from_above)
    out[..., :-1, :].mul_(messages.from_below)
    return out


def _new_messages(belief: Tensor, messages: Messages, gain: Tensor, room: Messages) -> None:
    """``M = e^J - (e^J - 1) R / (R + B)`` with ``R`` the message in the other direction."""
    slope = 1 - gain
    for new, sender, reverse in zip(room, _senders(belief), _reversed(messages)):
        torch.add(sender, reverse, out=new)
        torch.div(reverse, new, out=new)
        new.mul_(slope).add_(gain)


def _senders(belief: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return belief[..., :, :-1], belief[..., :, 1:], belief[..., :-1, :], belief[..., 1:, :]


def _reversed(messages: Messages) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    left, right, above, below = messages
    return right, left, below, above


def _refuse_strong(prior: Lattice, options: Options) -> None:
    if options.on_unreliable == "ignore":
        return
    strongest = float(torch.as_tensor(prior.coupling).detach().abs().max())
    if strongest <= RELIABLE_COUPLING:
        return
    message = (
        f"belief propagation on a wide lattice is unreliable at coupling {strongest:g}, above "
        f"{RELIABLE_COUPLING}; lower the coupling, use Blocks, or method='exact' for at most 12 "
        "sites across. Strong evidence at nearly every site breaks the symmetry and makes it "
        "work up to about 1.6: pass on_unreliable='ignore' then, and check `converged`"
    )
    if options.on_unreliable == "raise":
        raise ConvergenceError(message)
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _add_incoming(field: Tensor, messages: Messages) -> Tensor:
    total = field.clone()
    total[..., :, 1:] += messages.from_left.log()
    total[..., :, :-1] += messages.from_right.log()
    total[..., 1:, :] += messages.from_above.log()
    total[..., :-1, :] += messages.from_below.log()
    return total


def _product(odds: Tensor, messages: Messages) -> Tensor:
    """As ``_belief``; out of place where autograd needs it."""
    if not torch.is_grad_enabled():
        return _belief(odds, messages, out=torch.empty_like(odds))
    left, right, above, below = messages
    across = pad(left, (1, 0), value=1) * pad(right, (0, 1), value=1)
    down = pad(above, (0, 0, 1, 0), value=1) * pad(below, (0, 0, 0, 1), value=1)
    return odds * across * down


def _differentiable(messages: Messages, odds: Tensor, gain: Tensor) -> Messages:
    """Sweeps with gradient from the fixed point: the series of its implicit derivative."""
    for _ in range(GRADIENT_SWEEPS):
        belief = _product(odds, messages)
        messages = Messages(
            *(
                gain - (gain - 1) * reverse / (reverse + sender)
                for sender, reverse in zip(_senders(belief), _reversed(messages))
            )
        )
    return messages


def _pairs(odds: Tensor, gain: Tensor, messages: Messages) -> tuple[Tensor, Tensor]:
    """``P(1, 1)`` as ``P(s_j = 1) P(s_i = 1 | s_j = 1)``, across and down."""
    belief = _product(odds, messages)
    on = belief / (1 + belief)
    first = gain * belief[..., :, :-1] / messages.from_right
    second = gain * belief[..., :-1, :] / messages.from_below
    return on[..., :, 1:] * first / (1 + first), on[..., 1:, :] * second / (1 + second)


def bethe_log_z(odds: Tensor, gain: Tensor, messages: Messages) -> Tensor:
    r"""Bethe approximation of ``log sum_s exp(<h + l, s> + J sum s s')``, in nats.

    .. math:: \sum_{(ij)} \ln(1 + x_i + x_j + e^J x_i x_j) + \sum_i (1 - \deg_i) \ln(1 + B_i)

    with cavity odds ``x``. It is stationary in the messages, so their error enters squared.
    """
    belief = _product(odds, messages)
    degree = grid_degree(*belief.shape[-2:]).to(belief.device, belief.dtype)
    edges = torch.zeros_like(belief[..., 0, 0], dtype=torch.float64)
    directions = list(zip(_senders(belief), _reversed(messages)))
    for (one, to_one), (two, to_two) in (directions[:2], directions[2:]):
        x, y = one / to_one, two / to_two
        # ln(1 + x + y + g x y) = ln(1 + x) + ln(1 + y (1 + g x) / (1 + x)): no overflow
        forward = gain - (gain - 1) / (1 + x)
        terms = torch.log1p(x) + torch.log1p(y * forward)
        edges = edges + terms.sum((-2, -1), dtype=torch.float64)
    sites = ((1 - degree) * torch.log1p(belief)).sum((-2, -1), dtype=torch.float64)
    return edges + sites


def _with_gradient(base: Tensor, coupling: Tensor, messages: Messages) -> Tensor:
    """The Bethe value, with its exact gradient at a fixed point: the beliefs."""
    with torch.no_grad():
        odds, gain = base.exp(), coupling.exp()
        value = bethe_log_z(odds, gain, messages)
        belief = _product(odds, messages)
        probability = belief / (1 + belief)
    if not (torch.is_grad_enabled() and (base.requires_grad or coupling.requires_grad)):
        return value
    moved = (probability * (base - base.detach())).sum((-2, -1))
    if coupling.requires_grad:
        with torch.no_grad():
            across, down = _pairs(odds, gain, messages)
            count = across.sum((-2, -1)) + down.sum((-2, -1))
        change = coupling - coupling.detach()
        moved = moved + count * (change[..., 0, 0] if change.dim() else change)
    return value + moved


def _prior_log_z(prior: Lattice, evidence: Tensor, options: Options) -> Tensor:
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
        calm = Options(damping=options.damping, tolerance=options.tolerance, max_iterations=500)
        messages, _, _ = run(base.detach(), coupling.detach(), calm)
    return _with_gradient(base, coupling, messages)


@functools.lru_cache(maxsize=256)
def _cached_log_z(
    field: float, coupling: float, rows: int, cols: int, dtype: torch.dtype, device: torch.device
) -> float:
    empty = torch.zeros(rows, cols, dtype=dtype, device=device)
    base = Lattice(field, coupling).site_field(empty).clamp(-ODDS_LIMIT, ODDS_LIMIT)
    strength = as_tensor(coupling, empty)
    messages, _, _ = run(base, strength, Options(max_iterations=500))
    return float(bethe_log_z(base.exp(), strength.exp(), messages))
