"""What one forward says about each position, from one pass over the logits.

`probcomp.kernels.decode_stats` reads argmax, confidence, entropy and end mass together (in one
Triton kernel on a GPU); only drawing tokens goes over the logits again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.kernels import decode_stats


@dataclass(frozen=True)
class Features:
    """Per position, all [batch, width].

    ``token`` the candidate (argmax, or a draw), ``confidence`` its untempered probability,
    ``top`` and ``top_prob`` the argmax and its probability, ``entropy`` in nats,
    ``eos`` the probability of any end token, ``delimiter`` the weighted delimiter mass.
    """

    token: Tensor
    confidence: Tensor
    top: Tensor
    top_prob: Tensor
    entropy: Tensor
    eos: Tensor
    delimiter: Tensor


def read_features(
    logits: Tensor,
    eos_ids: Sequence[int],
    delimiters: Sequence[tuple[int, float]] = (),
    *,
    temperature: float = 0.0,
    noise: Tensor | None = None,
) -> Features:
    """Features of logits [batch, width, vocabulary].

    Args:
        eos_ids: ids that end an answer.
        delimiters: (id, weight) of tokens that may end a block.
        temperature: 0 takes the argmax; above 0 the candidate is drawn from softmax(logits / T)
            by inversion in float64, which has the law of the Gumbel draw.
        noise: uniform numbers [batch, width] for the draw.
    """
    stats = decode_stats(logits, eos_ids=eos_ids)
    # A row that is all minus infinity or not a number says nothing: no token is sure there.
    top = stats.argmax.clamp(min=0)
    top_prob, entropy, eos = (
        x.nan_to_num(0.0) for x in (stats.top1, stats.entropy, stats.eos_mass)
    )
    log_z = stats.logsumexp
    if delimiters:
        ids, values = zip(*delimiters)
        chosen = logits[..., list(ids)] - log_z[..., None]
        delimiter = chosen.exp().nan_to_num(0.0) @ logits.new_tensor(values)
    else:
        delimiter = torch.zeros_like(top_prob)
    token, confidence = top, top_prob
    if temperature > 0:
        if noise is None:
            raise ValueError("drawing tokens needs noise")
        token = draw(logits, temperature, noise)
        confidence = (logits.gather(-1, token[..., None])[..., 0] - log_z).exp().nan_to_num(0.0)
    return Features(token, confidence, top, top_prob, entropy, eos, delimiter.clamp(max=1.0))


def draw(logits: Tensor, temperature: float, noise: Tensor) -> Tensor:
    """Tokens of softmax(logits / T) by inversion of ``noise`` [batch, width], in float64."""
    share = ((logits - logits.amax(-1, keepdim=True)).double() / temperature).exp().cumsum(-1)
    total = share[..., -1:]
    # Below the total even after rounding, so that what has no mass at the end is never drawn.
    at = torch.minimum(noise[..., None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return (share <= at).sum(-1)
