"""Where the next block lies: one function a method, each returns (begin, end) per row.

``none``       the whole canvas
``fixed``      the cell of a fixed grid that holds the first undecided position
``delimiter``  AdaBlock (arXiv 2509.26432): up to the most confident delimiter ahead
``posterior``  the semi-Markov posterior, or its best partition when the order is not left to right
"""

import torch
from torch import Tensor

from probcomp.decoding.blocks import structure_posterior
from probcomp.decoding.boundary import BoundaryWeights, boundary_evidence, next_block
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.durations import Crp, Duration, Geometric, NegativeBinomial
from probcomp.decoding.length import NEG
from probcomp.decoding.order import choose_block, priorities
from probcomp.decoding.partition import map_partition
from probcomp.decoding.view import View


def duration_of(config: DecodingConfig) -> Duration:
    """The block prior a configuration names, with its mean and longest block (tokens)."""
    longest = config.block_max
    mean = min(config.block_mean, longest - 1.0) if longest > 1 else 1.0
    if config.block_prior == "geometric":
        return Geometric(mean, longest)
    if config.block_prior == "crp" and 1.0 < mean < longest:
        return Crp.with_mean(mean, longest)
    return NegativeBinomial(mean, config.block_shape, longest)


def on_grid(view: View, size: int) -> tuple[Tensor, Tensor]:
    """The fixed block of the first undecided position."""
    begin = view.first_pending() // size * size
    return begin, torch.minimum(begin + size, view.length)


def at_delimiter(view: View, config: DecodingConfig) -> tuple[Tensor, Tensor]:
    """Up to the most confident delimiter within a share of the canvas, else the default size."""
    begin = view.first_pending().clamp(max=view.width)
    reach = (config.delimiter_share * view.length).long()
    ahead = view.inside(begin, torch.minimum(begin + reach, view.length))
    ids = torch.tensor([token for token, _ in config.delimiters], device=view.ids.device)
    found = ahead & torch.isin(view.features.top, ids)
    score = torch.where(found, view.features.top_prob, -1.0)
    best, at = score.max(1)
    end = torch.where(best >= config.block_threshold, at + 1, begin + config.block_length)
    return begin, torch.minimum(end, view.length)


def by_posterior(
    view: View, config: DecodingConfig, durations: tuple[Tensor, Tensor], uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """The next block of the posterior from the first undecided position on."""
    begin = torch.minimum(view.first_pending(), (view.length - 1).clamp(min=0))
    place = begin[:, None] + view.place
    at = place.clamp(max=view.width - 1)
    left = view.length - begin

    def moved(value: Tensor) -> Tensor:
        return value.gather(1, at)

    f, ids = view.features, torch.tensor([token for token, _ in config.delimiters] or [-1])
    committed = view.valid & ~view.masked & torch.isin(view.ids, ids.to(view.ids.device))
    r = boundary_evidence(
        moved(f.delimiter),
        moved(f.entropy),
        moved(committed),
        left,
        BoundaryWeights(*config.boundary_weights),
    )
    if view.end_weights is None:
        raise ValueError("posterior blocks need the end posterior")
    wide = torch.cat((place, place[:, -1:] + 1), dim=1)
    weights = view.end_weights.gather(1, wide.clamp(max=view.width))
    weights = torch.where(wide > view.length[:, None], NEG, weights).to(r.dtype)
    if config.order == "ltr":
        posterior = structure_posterior(weights, r, durations)
        size = next_block(
            posterior.p_first, config.block_threshold, config.block_min, config.block_max, left
        )
        if config.block_multiple:
            size = -(-size // config.block_multiple) * config.block_multiple
        return begin, torch.minimum(begin + size, view.length)
    ends = map_partition(weights, r, durations, config.order_candidates)
    edges = torch.cat((torch.zeros_like(ends[:, :1]), ends), dim=1)
    # When the best story is that the text has ended, what is undecided is still one block.
    edges[:, -1] = torch.where(edges[:, -1] == 0, left, edges[:, -1])
    undecided = moved(view.pending) & (place < view.width)
    priority = priorities(
        moved(f.entropy),
        undecided,
        edges,
        left,
        entropy_weight=config.order_entropy,
        context_weight=config.order_context,
    )
    chosen = choose_block(priority, config.order_temperature, uniform)
    low = edges.gather(1, chosen[:, None])[:, 0]
    high = edges.gather(1, chosen[:, None] + 1)[:, 0]
    return begin + low, begin + high
