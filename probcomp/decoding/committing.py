"""Which undecided positions are committed now: the rules of `schedule` on the current block."""

import torch
from torch import Tensor

from probcomp.decoding import schedule
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.coupled import coupled, decay_coupling, markov_cut
from probcomp.decoding.features import Features


def expected_error(confidence: Tensor, temperature: float) -> Tensor:
    """eps = 1 - sigmoid(logit(c) / T): the calibrated chance that a token is wrong."""
    if temperature == 1.0:
        return 1.0 - confidence
    c = confidence.clamp(1e-7, 1 - 1e-7)
    return torch.sigmoid((torch.log1p(-c) - c.log()) / temperature)


def commit_set(
    config: DecodingConfig,
    features: Features,
    eligible: Tensor,
    masked: Tensor,
    *,
    allowance: Tensor,
    quota: Tensor,
    calm: Tensor,
    begin: Tensor,
    end: Tensor,
) -> Tensor:
    """The set to commit, [rows, width]; at least one position of each row with an eligible one.

    Args:
        allowance: expected wrong tokens this forward may add, [rows] (budget and joint).
        quota: tokens this forward commits under the quota rules, [rows].
        calm: forwards in a row with a small change of the marginal, [rows, width].
        begin, end: the block, [rows].
    """
    rule, c = config.commit_rule, features.confidence
    # Which positions to commit must not depend on what was drawn there, or the law of the text
    # shifts towards likely tokens; so the error is that of the marginal. (Greedy: the same.)
    error = expected_error(features.top_prob, config.confidence_temperature)
    if rule == "budget":
        return schedule.budget(error.double(), eligible, allowance)
    if rule == "entropy":
        return schedule.entropy(features.entropy, eligible, config.gamma)
    if rule == "threshold":
        return schedule.threshold(c, eligible, config.threshold)
    if rule == "factor":
        return schedule.factor(c, eligible, config.factor)
    if rule == "quota":
        return schedule.quota(c, eligible, quota)
    if rule == "stable":
        ready = eligible & (c > config.threshold) & (calm >= config.stable_history)
        return torch.where(ready.any(1, keepdim=True), ready, schedule.quota(c, eligible, quota))
    if rule == "capped":
        low, high = config.cap_range
        cap = (config.cap_share * eligible.sum(1)).long().clamp(low, high)
        many = schedule.threshold(c, eligible, config.threshold)
        return many & schedule.quota(c, many, cap)
    together = _coupled_in_block(config, features, eligible, masked, begin, end)
    if rule == "coupled":
        return together
    cheap = schedule.budget(error.double(), eligible, allowance)
    both = together & cheap
    best = schedule.quota(-error, eligible, torch.ones_like(begin))
    return torch.where(both.any(1, keepdim=True), both, best)


def _coupled_in_block(
    config: DecodingConfig,
    features: Features,
    eligible: Tensor,
    masked: Tensor,
    begin: Tensor,
    end: Tensor,
) -> Tensor:
    """The coupled rule on the block alone: its cost is quadratic in the width it sees."""
    width = eligible.shape[1]
    size = int((end - begin).max())
    if size < 1 or not bool(eligible.any()):
        return torch.zeros_like(eligible)
    place = begin[:, None] + torch.arange(size, device=begin.device)
    inside, at = place < width, place.clamp(max=width - 1)
    h = features.entropy.gather(1, at)
    pair = decay_coupling(h, config.coupling_length)
    if config.markov_cut:
        pair = markov_cut(pair, masked.gather(1, at))
    chosen = coupled(pair, eligible.gather(1, at) & inside, config.gamma)
    wide = torch.zeros(len(eligible), width + size, dtype=torch.bool, device=begin.device)
    return wide.scatter(1, place, chosen)[:, :width] & eligible
