r"""Sweeps of messages on lattices, in odds instead of log-odds.

With odds :math:`B_i = e^{h_i + l_i} \prod_k M_{k \to i}` a message is

.. math:: M_{i \to j} = \frac{1 + e^J x}{1 + x}
          = e^J - (e^J - 1) \frac{M_{j \to i}}{M_{j \to i} + B_i},\qquad x = B_i / M_{j \to i},

which needs no exponential and no logarithm: a sweep is a handful of multiplications and one
division for each directed edge. Messages stay in ``[e^-|J|, e^|J|]``.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from probcomp.errors import InputError
from probcomp.inference.solver import Options

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


def run(base: Tensor, coupling: Tensor, options: Options) -> tuple[Messages, bool, int]:
    """Sweeps until no message changes by more than the tolerance, in place, without gradient."""
    odds, gain = base.exp(), coupling.exp()
    messages = starting(options.start, base, gain)
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


def starting(start: Messages | None, base: Tensor, gain: Tensor) -> Messages:
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
    for new, sender, reverse in zip(room, senders(belief), reversals(messages)):
        torch.add(sender, reverse, out=new)
        torch.div(reverse, new, out=new)
        new.mul_(slope).add_(gain)


def product(odds: Tensor, messages: Messages) -> Tensor:
    """As ``_belief``; out of place where autograd needs it."""
    if not torch.is_grad_enabled():
        return _belief(odds, messages, out=torch.empty_like(odds))
    left, right, above, below = messages
    across = pad(left, (1, 0), value=1) * pad(right, (0, 1), value=1)
    down = pad(above, (0, 0, 1, 0), value=1) * pad(below, (0, 0, 0, 1), value=1)
    return odds * across * down


def differentiable(messages: Messages, odds: Tensor, gain: Tensor) -> Messages:
    """Sweeps with gradient from the fixed point: the series of its implicit derivative."""
    for _ in range(GRADIENT_SWEEPS):
        belief = product(odds, messages)
        messages = Messages(
            *(
                gain - (gain - 1) * reverse / (reverse + sender)
                for sender, reverse in zip(senders(belief), reversals(messages))
            )
        )
    return messages


def add_incoming(field: Tensor, messages: Messages) -> Tensor:
    total = field.clone()
    total[..., :, 1:] += messages.from_left.log()
    total[..., :, :-1] += messages.from_right.log()
    total[..., 1:, :] += messages.from_above.log()
    total[..., :-1, :] += messages.from_below.log()
    return total


def senders(belief: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return belief[..., :, :-1], belief[..., :, 1:], belief[..., :-1, :], belief[..., 1:, :]


def reversals(messages: Messages) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    left, right, above, below = messages
    return right, left, below, above
