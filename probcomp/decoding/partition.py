"""The most probable partition of a window into blocks: max-product in place of sum-product."""

import torch
from torch import Tensor

from probcomp.decoding.length import NEG


def map_partition(
    end_weights: Tensor, boundary: Tensor, durations: tuple[Tensor, Tensor], blocks: int
) -> Tensor:
    """Ends of the first ``blocks`` blocks of the jointly most probable (end, cuts).

    Same model and arguments as `probcomp.decoding.blocks.structure_posterior`. Returns positions
    [batch, blocks], rising; the block the text ends in stops before the end, and once the text
    has ended its last position repeats. Ties go to the shorter block.
    """
    batch, width = boundary.shape
    log_d, log_longer = (x.to(boundary)[:width] for x in durations)
    longest = len(log_d)
    ends = end_weights.to(boundary.dtype)
    buffer = boundary.new_full((batch, width + longest + 1), NEG)  # best weight from i on, + r_i
    best_length = torch.zeros(batch, width + 1, dtype=torch.long, device=boundary.device)
    padded = torch.nn.functional.pad(ends, (0, longest), value=NEG)
    buffer[:, width] = ends[:, width] + boundary[:, width - 1]
    for i in range(width - 1, -1, -1):
        cut, at_cut = (buffer[:, i + 1 : i + 1 + longest] + log_d).max(1)
        open_, at_open = (padded[:, i + 1 : i + 1 + longest] + log_longer).max(1)
        value = torch.stack((ends[:, i], cut, open_))
        value, kind = value.max(0)
        # 0: the text ends here; l: a finished block of l; -l: cut off by the end after l.
        best_length[:, i] = torch.where(kind == 1, at_cut + 1, 0)
        best_length[:, i] = torch.where(kind == 2, -(at_open + 1), best_length[:, i])
        buffer[:, i] = (value + (boundary[:, i - 1] if i else 0.0)).clamp(min=NEG)
    place = torch.zeros(batch, dtype=torch.long, device=boundary.device)
    over = torch.zeros(batch, dtype=torch.bool, device=boundary.device)
    found = []
    for _ in range(blocks):
        step = best_length.gather(1, place[:, None])[:, 0]
        place = torch.where(over, place, place + step.abs())
        over = over | (step <= 0)
        found.append(place)
    return torch.stack(found, dim=1)
