"""What one forward says about each position, from one pass over the logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
    peak, top = logits.max(-1)
    # exp(-500) is 0 in either precision, and a banned token (-inf) then adds 0 and not NaN.
    below = (logits - peak[..., None]).clamp_(min=-500.0)
    weight = below.exp()
    total = weight.sum(-1)
    # H = log Z - E[l - peak]
    entropy = (total.log() - torch.linalg.vecdot(weight, below) / total).clamp(min=0.0)
    eos = weight[..., list(eos_ids)].sum(-1) / total
    if delimiters:
        ids, values = zip(*delimiters)
        delimiter = weight[..., list(ids)] @ weight.new_tensor(values) / total
    else:
        delimiter = torch.zeros_like(total)
    top_prob = 1.0 / total
    token, confidence = top, top_prob
    if temperature > 0:
        if noise is None:
            raise ValueError("drawing tokens needs noise")
        share = ((logits - peak[..., None]).double() / temperature).exp().cumsum(-1)
        token = (share <= noise[..., None] * share[..., -1:]).sum(-1)
        token = token.clamp(max=logits.shape[-1] - 1)
        confidence = weight.gather(-1, token[..., None])[..., 0] / total
    return Features(token, confidence, top, top_prob, entropy, eos, delimiter.clamp(max=1.0))
