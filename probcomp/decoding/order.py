r"""Which block next: a Gibbs order over candidate blocks.

    priority(B) = -eta_H mean entropy(B) + eta_C context(B)

with context the visible share of the 2 r neighbours of the block. Orders are Plackett-Luce:
P(order) = prod_n softmax(priority / T over the blocks left); T -> 0 takes them in descending
priority. (DyStruct, arXiv 2605.09820, draws blocks from a Gibbs distribution over instability
and decoded context; its exact form is not public.)
"""

import torch
from torch import Tensor

from probcomp.errors import InputError

RADIUS = 8  # neighbours on each side that count as context


def priorities(
    entropy: Tensor,
    masked: Tensor,
    edges: Tensor,
    length: Tensor,
    *,
    entropy_weight: float = 1.0,
    context_weight: float = 1.0,
) -> Tensor:
    """Priority of the blocks between consecutive ``edges`` [batch, blocks + 1]. [batch, blocks].

    Blocks without a masked position get -inf. Mean entropy (nats per token) is over the masked.
    """
    place = torch.arange(entropy.shape[1], device=entropy.device)
    begin, end = edges[:, :-1, None], edges[:, 1:, None]
    inside = (place >= begin) & (place < end)
    todo = inside & masked[:, None]
    count = todo.sum(2)
    mean = (entropy[:, None] * todo).sum(2) / count.clamp(min=1)
    near = (place >= begin - RADIUS) & (place < end + RADIUS) & ~inside
    near = near & (place < length[:, None, None])
    visible = (near & ~masked[:, None]).sum(2)
    # What lies left of the window is the prompt: it is visible, and there is always some.
    prompt = (RADIUS - edges[:, :-1]).clamp(min=0)
    context = (visible + prompt) / (near.sum(2) + prompt).clamp(min=1)
    value = -entropy_weight * mean + context_weight * context
    return value.masked_fill(count == 0, -torch.inf)


def choose_block(
    priority: Tensor, temperature: float = 0.0, uniform: Tensor | None = None
) -> Tensor:
    """The next block, [batch]: the argmax, or a draw by ``uniform`` [batch] in [0, 1)."""
    if temperature == 0.0:
        return priority.argmax(1)
    if uniform is None:
        raise InputError("a temperature above 0 draws the block and needs uniform numbers")
    chance = (priority / temperature).softmax(1).cumsum(1)
    chosen = (chance <= uniform[:, None] * chance[:, -1:]).sum(1)
    return chosen.clamp(max=priority.shape[1] - 1)


def order_log_prob(priority: Tensor, order: Tensor, temperature: float) -> Tensor:
    """log P(order) in nats under Plackett-Luce. priority, order [blocks]; scalar."""
    ranked = priority[order] / temperature
    tails = ranked.flip(0).logcumsumexp(0).flip(0)
    return (ranked - tails).sum()
