"""Border repair: once two neighbouring blocks are complete, verify a thin zone around the cut.

The 2 w positions around the cut get leave-one-out probabilities; those that fail by the odds of
`probcomp.decoding.revoke` are masked again and refined by the ordinary loop, with at most two
extra forwards a border. (DyStruct, arXiv 2605.09820, calls it edge welding.)
"""

import torch
from torch import Tensor

EXTRA_FORWARDS = 2


def border(cut: Tensor, half: int, masked: Tensor, length: Tensor) -> Tensor:
    """Positions cut - half .. cut + half - 1, [batch, 2 half]; -1 where masked or outside.

    A border is ready when every position of the zone is committed; until then all are -1.
    """
    place = cut[:, None] + torch.arange(-half, half, device=cut.device)
    inside = (place >= 0) & (place < length[:, None]) & (cut > 0)[:, None]
    visible = ~masked.gather(1, place.clamp(0, masked.shape[1] - 1))
    ready = (visible | ~inside).all(1, keepdim=True)
    return torch.where(inside & ready, place, -1)
