"""Which undecided positions are committed now: the rules of `schedule` on the current block."""

import torch
from torch import Tensor

from probcomp.decoding import schedule
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.coupled import coupled, decay_coupling, markov_cut
from probcomp.decoding.features import Features
from probcomp.decoding.pairwise import end_coupling, pairwise, profile_coupling, unmediated


def expected_error(
    confidence: Tensor, temperature: float, curve: tuple[tuple[float, float], ...] = ()
) -> Tensor:
    """The calibrated chance that a token is wrong.

    Without a curve, eps = 1 - sigmoid(logit(c) / T). A fitted curve is linear between its knots
    (confidence, error) on logit axes. Past the last one, which averages over tokens less sure, a
    token is charged 1 - c where that is less.
    """
    if curve:
        return _on_curve(confidence, curve)
    if temperature == 1.0:
        return 1.0 - confidence
    c = confidence.clamp(1e-7, 1 - 1e-7)
    return torch.sigmoid((torch.log1p(-c) - c.log()) / temperature)


def errors(config: DecodingConfig, confidence: Tensor, doubt: Tensor) -> Tensor:
    """`expected_error` of tokens [rows, width] by the curve of their row.

    A confident token among confident ones is wrong less often than the same one in a row that is
    open: ``doubt`` [rows] is the mean entropy (nats) of its positions before any was decided.
    """
    found = expected_error(confidence, config.confidence_temperature, config.error_curve)
    if config.sure_entropy == 0.0:
        return found
    sure = expected_error(confidence, config.confidence_temperature, config.error_curve_sure)
    return torch.where((doubt < config.sure_entropy)[:, None], sure, found)


def _on_curve(confidence: Tensor, curve: tuple[tuple[float, float], ...]) -> Tensor:
    knots = torch.tensor(curve, dtype=torch.float64, device=confidence.device).clamp(1e-9, 1 - 1e-9)
    x, y = knots.logit().T.contiguous()
    at = confidence.double().clamp(1e-12, 1 - 1e-12).logit()
    if len(x) == 1:
        found = y.expand_as(at)
    else:
        right = torch.bucketize(at, x).clamp(1, len(x) - 1)
        weight = ((at - x[right - 1]) / (x[right] - x[right - 1])).clamp(0.0, 1.0)
        found = y[right - 1] + weight * (y[right] - y[right - 1])
    error = found.sigmoid()
    past = at > x[-1]
    return torch.where(past, torch.minimum(error, 1.0 - confidence.double()), error).to(
        confidence.dtype
    )


def commit_set(
    config: DecodingConfig,
    features: Features,
    eligible: Tensor,
    masked: Tensor,
    visible: Tensor,
    *,
    doubt: Tensor,
    allowance: Tensor,
    quota: Tensor,
    calm: Tensor,
    begin: Tensor,
    end: Tensor,
) -> Tensor:
    """The set to commit, [rows, width]; at least one position of each row with an eligible one.

    Args:
        masked, visible: what is undecided, and what is decided content, [rows, width].
        doubt: mean entropy of a row's positions before any was decided, nats, [rows].
        allowance: expected wrong tokens this forward may add, [rows] (budget and joint).
        quota: tokens this forward commits under the quota rules, [rows].
        calm: forwards in a row with a small change of the marginal, [rows, width].
        begin, end: the block, [rows].
    """
    rule, c = config.commit_rule, features.confidence
    # Which positions to commit must not depend on what was drawn there, or the law of the text
    # shifts towards likely tokens; so the error is that of the marginal. (Greedy: the same.)
    error = errors(config, features.top_prob, doubt)
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
    together = _coupled_in_block(config, features, eligible, masked, visible, begin, end)
    if rule in ("coupled", "pairwise"):
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
    visible: Tensor,
    begin: Tensor,
    end: Tensor,
) -> Tensor:
    """The coupling rules on the block alone: their cost is quadratic in the width they see."""
    width = eligible.shape[1]
    size = int((end - begin).max())
    if size < 1 or not bool(eligible.any()):
        return torch.zeros_like(eligible)
    place = begin[:, None] + torch.arange(size, device=begin.device)
    inside, at = place < width, place.clamp(max=width - 1)
    h = features.entropy.gather(1, at)
    may = eligible.gather(1, at) & inside
    if config.coupling_profile:
        pair = profile_coupling(h, config.coupling_profile)
        seen = inside & visible.gather(1, at)
        pair = unmediated(pair, config.coupling_profile, seen)
        pair = pair + end_coupling(features.eos.gather(1, at)).to(pair.dtype)
    else:
        pair = decay_coupling(h, config.coupling_length)
    if config.markov_cut:
        pair = markov_cut(pair, masked.gather(1, at))
    if config.commit_rule == "pairwise":
        chosen = pairwise(pair, h, may, config.gamma)
    else:
        chosen = coupled(pair, may, config.gamma)
    wide = torch.zeros(len(eligible), width + size, dtype=torch.bool, device=begin.device)
    return wide.scatter(1, place, chosen)[:, :width] & eligible
