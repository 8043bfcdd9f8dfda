"""Experts ranked by what routers do with them: usage counts, and gate-weighted norms of outputs."""

from collections.abc import Mapping

import torch
from _post_networks import Network
from torch import Tensor, nn
from torch.nn import functional as F

from probcomp.data.batches import Batches
from probcomp.structure import Axis


def usage(network: Network, data: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """For each layer: how often each expert is chosen, and its REAP score, [E] each.

    The score of REAP (Lasby et al. 2025, arXiv 2510.13999) is the mean, over the tokens
    that are sent to an expert, of its gate times the norm of what it gives out.
    """
    layers = [m for m in network.model.modules() if type(m).__name__ == "MixtralExperts"]
    counts = [torch.zeros(m.num_experts, dtype=torch.float64) for m in layers]
    norms = [torch.zeros(m.num_experts, dtype=torch.float64) for m in layers]

    def watch(at: int):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            hidden, chosen, gates = inputs
            for expert in range(module.num_experts):
                token, place = torch.where(chosen == expert)
                gate, up = F.linear(hidden[token], module.gate_up_proj[expert]).chunk(2, -1)
                given = F.linear(module.act_fn(gate) * up, module.down_proj[expert])
                counts[at][expert] += len(token)
                norms[at][expert] += float((gates[token, place] * given.norm(dim=-1)).sum())

        return hook

    handles = [m.register_forward_hook(watch(at)) for at, m in enumerate(layers)]
    try:
        with torch.no_grad():
            for batch in Batches(data, 32, shuffle=False)():
                network.model(*batch[:-1])
    finally:
        for handle in handles:
            handle.remove()
    return counts, [n / c.clamp_min(1) for n, c in zip(norms, counts)]


def lowest(
    axes: tuple[Axis, ...], scores: Mapping[str, Tensor], removed: int, *, everywhere: bool
) -> dict[str, Tensor]:
    """Experts that stay when those of the lowest scores go.

    Args:
        axes: The layers' experts.
        scores: Axis name to a score of each expert.
        removed: How many go in all.
        everywhere: The same number in each layer; otherwise one threshold for all, and no layer
            keeps fewer than its router chooses.
    """
    keep = {a.name: torch.ones(a.size, dtype=torch.bool) for a in axes}
    if everywhere:
        for a in axes:
            keep[a.name][scores[a.name].argsort()[: removed // len(axes)]] = False
        return keep
    ranked = sorted((float(s), a.name, e) for a in axes for e, s in enumerate(scores[a.name]))
    least = {a.name: a.min_keep for a in axes}
    for _, name, expert in ranked:
        if removed and int(keep[name].sum()) > least[name]:
            keep[name][expert] = False
            removed -= 1
    return keep
