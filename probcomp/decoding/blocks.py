r"""Where are the blocks: the exact semi-Markov posterior of ends and block boundaries.

Joint log-weight of an end k and a set of cuts before it:

    log pi_k + rho Lambda_k + sum_blocks [log d or log D + g] + sum_cuts r.

The content is cut into blocks with i.i.d. durations; the last block is finished (weight d) or
cut off by the end (weight D). With r = g = 0 the block factor sums to one for every k, so the
block prior never moves the length posterior. Recursions in the log domain, a_0 = 0:

    a_e = r_e + LSE_l [a_{e-l} + log d(l) + g(e, l)]          boundary at e
    c_e = LSE_l [a_{e-l} + log D(l) + g(e, l)]                unfinished block up to e
    w_k = log pi_k + rho Lambda_k + logaddexp(a_{k-1}, c_{k-1})
    b_i = LSE{ w'_{i+1}; LSE_l [log d(l) + g(i+l, l) + r_{i+l} + b_{i+l}];
               LSE_l [log D(l) + g(i+l, l) + w'_{i+l+1}] },   w'_k = log pi_k + rho Lambda_k

Cost O(batch width longest): one pass of ``width`` steps runs both directions side by side.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.decoding.length import NEG


@dataclass(frozen=True)
class StructurePosterior:
    """Ends and blocks of each row, counted from the start of the window.

    ``p_end`` [batch, width + 1] (column ``length`` of a row is "beyond the window"),
    ``p_boundary`` [batch, width] P(a block ends at i), ``p_first`` [batch, longest] P(the first
    block is l tokens and finished), ``p_last`` [batch] P(the text ends before a boundary),
    ``log_evidence`` [batch] log Z in nats per window.
    """

    p_end: Tensor
    p_boundary: Tensor
    p_first: Tensor
    p_last: Tensor
    log_evidence: Tensor


def structure_posterior(
    end_weights: Tensor,
    boundary: Tensor,
    durations: tuple[Tensor, Tensor],
    segment: Tensor | None = None,
) -> StructurePosterior:
    """Exact posterior by forward-backward.

    Args:
        end_weights: log pi_k + rho Lambda_k, [batch, width + 1]; `NEG` where impossible.
        boundary: r_i, log-likelihood ratio (nats) of a boundary at i, [batch, width].
        durations: (log d, log D) of `log_duration`, [longest] each.
        segment: g(i, l) for a block of l ending at i, [batch, width, longest]; None is 0.
    """
    width = boundary.shape[1]
    log_d, log_longer = (x.to(boundary)[:width] for x in durations)
    longest = len(log_d)
    end_weights = end_weights.to(boundary.dtype)
    g = None if segment is None else segment[..., :longest].to(boundary.dtype)
    # Terminal weights of the backward pass: the text ends at i + 1, or inside an unfinished block.
    late = torch.nn.functional.pad(end_weights[:, 1:], (0, longest), value=NEG)
    stop = late.unfold(1, longest, 1)[:, :width] + log_longer
    if g is not None:
        stop = stop + _ending_to_starting(g)
    terminal = torch.logaddexp(end_weights[:, :width], stop.logsumexp(2))
    terminal = torch.cat((terminal, end_weights[:, width:]), dim=1)

    a, b = _both_ways(boundary, log_d, g, terminal)
    past = torch.nn.functional.pad(a[:, :width], (longest - 1, 0), value=NEG)
    open_ = past.unfold(1, longest, 1) + log_longer.flip(0)
    if g is not None:
        open_ = open_ + g.flip(2)
    c = torch.nn.functional.pad(open_.logsumexp(2), (1, 0), value=NEG)

    weights = end_weights + torch.logaddexp(a, c)
    log_z = weights.logsumexp(1)
    ahead = torch.nn.functional.pad((boundary + b[:, 1:]), (0, longest), value=NEG)
    first = ahead[:, :longest] + log_d - b[:, :1]
    if g is not None:
        lengths = torch.arange(longest, device=g.device)
        first = first + g[:, lengths, lengths]
    p_first = first.exp()
    return StructurePosterior(
        p_end=(weights - log_z[:, None]).exp(),
        p_boundary=(a[:, 1:] + b[:, 1:] - b[:, :1]).exp(),
        p_first=p_first,
        p_last=(terminal[:, 0] - b[:, 0]).exp(),
        log_evidence=log_z,
    )


def _ending_to_starting(g: Tensor) -> Tensor:
    """g(i + l, l) indexed by start: [batch, width, longest] from g(i, l) indexed by end."""
    _, width, longest = g.shape
    end = torch.arange(width)[:, None] + torch.arange(longest)
    moved = g[:, end.clamp(max=width - 1), torch.arange(longest)]
    return moved.masked_fill((end >= width).to(g.device), NEG)


def _both_ways(
    boundary: Tensor, log_d: Tensor, g: Tensor | None, terminal: Tensor
) -> tuple[Tensor, Tensor]:
    """a [batch, width + 1] and b [batch, width + 1], in one loop over both directions.

    The backward quantity beta_i = r_i + b_i obeys the forward recursion in reversed time, plus a
    terminal term. The buffer is padded on the left, so that every step reads one slice.
    """
    batch, width = boundary.shape
    longest = len(log_d)
    buffer = boundary.new_full((2 * batch, longest + width + 1), NEG)
    buffer[:batch, longest] = 0.0
    r = torch.nn.functional.pad(boundary.flip(1), (0, 1))  # r_width..r_1, then r_0 = 0
    buffer[batch:, longest] = r[:, 0] + terminal[:, width]
    extra = torch.cat((torch.full_like(terminal, NEG), terminal.flip(1)))
    score = torch.cat((torch.nn.functional.pad(boundary, (1, 0)), r))
    weight = log_d.flip(0)
    both = None
    if g is not None:
        starting = torch.nn.functional.pad(_ending_to_starting(g), (0, 0, 0, 1), value=NEG)
        both = torch.cat((torch.nn.functional.pad(g, (0, 0, 1, 0)), starting.flip(1))).flip(2)
    for step in range(1, width + 1):
        window = buffer[:, step : step + longest] + weight
        if both is not None:
            window = window + both[:, step]
        value = torch.logaddexp(window.logsumexp(1), extra[:, step])
        buffer[:, longest + step] = (value + score[:, step]).clamp(min=NEG)
    a = buffer[:batch, longest:]
    beta = buffer[batch:, longest:].flip(1)
    return a, beta - torch.nn.functional.pad(boundary, (1, 0))
