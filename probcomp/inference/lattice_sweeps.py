"""Lattice messages by whole rows and columns: the schedule for a GPU.

Flooding changes every message a little in each sweep, in a handful of passes over memory. Here a
sweep solves every row exactly, with what columns say as evidence, then every column. Fixed points
are the same; information crosses the lattice in one sweep instead of one site a sweep, and the
chain kernel (`probcomp.kernels.chain_messages`) makes a sweep four launches.
"""

import torch
from torch import Tensor

from probcomp.inference.lattice_messages import TOLERANCE, Messages, starting
from probcomp.inference.solver import Options
from probcomp.kernels.chains import chain_messages


def run_rows_and_columns(
    base: Tensor, coupling: Tensor, options: Options
) -> tuple[Messages, bool, int]:
    """As `probcomp.inference.lattice_messages.run`, by alternating exact chains.

    Args:
        base: Field plus evidence, ``[..., R, C]``, log-odds within the clip.
        coupling: ``[..., 1, 1]``.
        options: The damping is that of the log messages.

    Returns:
        Messages in odds, whether they converged, and the sweeps.
    """
    messages = Messages(*(m.log() for m in starting(options.start, base, coupling.exp())))
    tolerance = options.tolerance or TOLERANCE[base.dtype]
    for sweep in range(1, options.max_iterations + 1):
        left, right = _along(base + _sum(base, None, messages), coupling, -1)
        across = messages._replace(
            from_left=left.lerp(messages.from_left, options.damping),
            from_right=right.lerp(messages.from_right, options.damping),
        )
        above, below = _along(base + _sum(base, across, None), coupling, -2)
        new = across._replace(
            from_above=above.lerp(messages.from_above, options.damping),
            from_below=below.lerp(messages.from_below, options.damping),
        )
        pairs = zip(new, messages)
        change = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
        messages = new
        if change < tolerance:
            return Messages(*(m.exp() for m in messages)), True, sweep
    return Messages(*(m.exp() for m in messages)), False, options.max_iterations


def _along(base: Tensor, coupling: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Messages along one dimension into its later and its earlier sites."""
    chains = base.movedim(dim, 0)
    strength = coupling.squeeze(-1).expand(chains.shape[1:])
    forward = chain_messages(chains, strength)[1:].movedim(0, dim)
    backward = chain_messages(chains, strength, reverse=True)[:-1].movedim(0, dim)
    return forward, backward


def _sum(base: Tensor, across: Messages | None, down: Messages | None) -> Tensor:
    """What the neighbours in a row, or those in a column, say of each site."""
    total = torch.zeros_like(base)
    if across is not None:
        total[..., :, 1:] += across.from_left
        total[..., :, :-1] += across.from_right
    if down is not None:
        total[..., 1:, :] += down.from_above
        total[..., :-1, :] += down.from_below
    return total
