"""Tiles: the evidence of a tile is the sum over its entries, its posterior is theirs. As exact
as the prior over the tiles."""

import dataclasses

from torch import Tensor

from probcomp.inference.solver import Marginals, Options, solve
from probcomp.priors.blocks import Blocks


@solve.register
def solve_blocks(prior: Blocks, evidence: Tensor, options: Options) -> Marginals:
    """Solve on the grid of tiles; the result's ``gate`` is the posterior of the tiles."""
    tiles = solve(prior.over, prior.gather(evidence), options)
    log_odds = prior.spread(tiles.log_odds, evidence.shape)
    return dataclasses.replace(
        tiles,
        log_odds=log_odds,
        probability=prior.spread(tiles.probability, evidence.shape),
        extrinsic=log_odds - evidence,
        log_z=prior.over_grid(tiles.log_z),
        gate=tiles,
    )
