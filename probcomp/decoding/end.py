r"""Where does the answer end: the exact posterior of the end position.

``cdf``  A denoiser trained with EOS as filler has e_i = P(E <= i | visible), so differences of
         its monotone envelope are the posterior (exact for an exact denoiser).
``hmm``  A two-state left-to-right chain over positions with tail evidence
         lambda_i = log p(phi_i | i >= E) - log p(phi_i | i < E):
             log w_k = log pi_k + rho sum_{i>=k} lambda_i,   p_end = softmax(w).
         rho in (0, 1] de-counts evidence that neighbours repeat.

Rows may have windows of different length. Column k - 1 of a [batch, width + 1] tensor is "the
end is at k", column ``length`` of a row is "beyond its window", and later columns are empty.
"""

import torch
from torch import Tensor

from probcomp.decoding.denoising import slab_share
from probcomp.decoding.length import NEG

CLIP = 12.0  # nats: an EOS logit beyond this is certainty either way


def allowed_ends(content: Tensor, eos: Tensor, length: Tensor) -> Tensor:
    """Ends that committed tokens leave possible. content, eos [batch, width] -> [batch, width + 1].

    Committed content at i forbids ends at or before i, a committed EOS forbids later ends. Where
    the two contradict each other, the first committed EOS decides: what follows it is filler.
    """
    column = torch.arange(content.shape[1] + 1, device=content.device)
    position = column[:-1]
    first_eos = torch.where(eos, position, content.shape[1]).min(1, keepdim=True).values
    latest = torch.minimum(first_eos, length[:, None])
    last_content = torch.where(content & (position < latest), position, -1).max(1).values
    return (column > last_content[:, None]) & (column <= latest)


def tail_sums(evidence: Tensor) -> Tensor:
    """Lambda_k = sum_{i>=k} lambda_i. [batch, width] -> [batch, width + 1], last column 0."""
    sums = evidence.flip(1).cumsum(1).flip(1)
    return torch.cat((sums, sums.new_zeros(len(sums), 1)), dim=1)


def tail_evidence(
    eos_mass: Tensor, masked: Tensor, log_prior: Tensor, *, intercept: float, slope: float
) -> Tensor:
    """lambda_i (nats) at masked positions: Platt on the EOS logit less the prior's log-odds.

        lambda_i = b0 + b1 clip(logit e_i, +-12) - logit F_0(i),   F_0(i) = sum_{k<=i} pi_k.

    Without the last term the prior would count twice. Committed positions carry none: they act
    through `allowed_ends`. eos_mass, masked [batch, width]; log_prior [batch, width + 1].
    """
    logit = _logit(eos_mass)
    prior = _logit(log_prior.exp().cumsum(1)[:, :-1]).to(logit.dtype)
    return torch.where(masked, intercept + slope * logit - prior, 0.0)


def _logit(probability: Tensor) -> Tensor:
    p = probability.double()
    return (p.log() - torch.log1p(-p)).clamp(-CLIP, CLIP).to(probability.dtype)


def hmm_end(log_prior: Tensor, evidence: Tensor, allowed: Tensor, temper: float = 1.0) -> Tensor:
    """p_end by the two-state chain. [batch, width + 1], rows sum to 1."""
    weights = log_prior + temper * tail_sums(evidence)
    return weights.masked_fill(~allowed, NEG).softmax(1)


def cdf_end(eos_mass: Tensor, allowed: Tensor, length: Tensor) -> Tensor:
    """p_end from EOS marginals read as a CDF. [batch, width + 1], rows sum to 1.

    A network's marginals are not quite monotone. The mean of the running maximum from the left
    and the running minimum from the right is, is the marginals themselves where they are
    monotone, and leans to neither side (the maximum alone ends texts too early).

    Where every allowed end has no mass, the ends that are allowed are equally likely.
    """
    width = eos_mass.shape[1]
    column = torch.arange(width + 1, device=eos_mass.device)
    inside = column[:-1] < length[:, None]
    upper = eos_mass.cummax(1).values
    lower = torch.where(inside, eos_mass, 1.0).flip(1).cummin(1).values.flip(1)
    cdf = (0.5 * (upper + lower)).clamp(0.0, 1.0)
    full = torch.cat((cdf, cdf.new_ones(len(cdf), 1)), dim=1)
    full = torch.where(column >= length[:, None], 1.0, full)
    mass = full.diff(dim=1, prepend=full.new_zeros(len(full), 1)).clamp(min=0.0)
    mass = torch.where(allowed, mass, 0.0)
    total = mass.sum(1, keepdim=True)
    return torch.where(total > 0, mass, allowed.to(mass.dtype)) / torch.where(
        total > 0, total, allowed.sum(1, keepdim=True).to(mass.dtype)
    )


def shrunk(p_end: Tensor, noise: float, length: Tensor) -> Tensor:
    """p_end without what is likely to be noise of the marginals. [batch, width + 1].

    A difference of two marginals that are off by some noise is positive half of the time where no
    end is possible at all, and a long window adds many of those up (`denoising.slab_share`). The
    mass inside the window and that beyond it are kept.
    """
    if noise == 0.0:
        return p_end
    inside = torch.arange(p_end.shape[1], device=p_end.device) < length[:, None]
    old = torch.where(inside, p_end, 0.0)
    new = old * slab_share(old, noise)
    scale = old.sum(1, keepdim=True) / new.sum(1, keepdim=True).clamp(min=1e-30)
    return torch.where(inside, new * scale, p_end)


def tilted(p_end: Tensor, tilt: float, length: Tensor) -> Tensor:
    """p_end times exp(-tilt k) at an end k inside the window, its mass beyond kept. [batch, w + 1].

    What a model thinks of a length also depends on which canvases it was trained on (those that
    fit an answer favour long ones); an exponential tilt is the least change that moves the mean.
    """
    if tilt == 0.0:
        return p_end
    column = torch.arange(p_end.shape[1], device=p_end.device)
    inside = column < length[:, None]
    old = torch.where(inside, p_end, 0.0)
    # The exponent is taken from the expected end, so that neither side underflows.
    centre = (old * column).sum(1, keepdim=True) / old.sum(1, keepdim=True).clamp(min=1e-30)
    new = old * torch.exp((-tilt * (column - centre)).clamp(-50.0, 50.0)).to(old.dtype)
    scale = old.sum(1, keepdim=True) / new.sum(1, keepdim=True).clamp(min=1e-30)
    return torch.where(inside, new * scale, p_end)


def share_of_prior(p_end: Tensor, knots: tuple[tuple[float, float], ...]) -> Tensor:
    """Chance that the end is drawn from the prior rather than read off the marginals. [batch].

    Linear between ``knots`` (entropy of p_end in nats, share), constant outside: a model that is
    sure of an end is trusted with it, one that is undecided is trusted less.
    """
    entropy = torch.special.entr(p_end).sum(1)
    x, y = (entropy.new_tensor(column) for column in zip(*knots))
    if len(x) == 1:
        return y.expand(len(entropy))
    at = torch.bucketize(entropy, x).clamp(1, len(x) - 1)
    weight = ((entropy - x[at - 1]) / (x[at] - x[at - 1])).clamp(0.0, 1.0)
    return y[at - 1] + weight * (y[at] - y[at - 1])


def with_prior(p_end: Tensor, log_prior: Tensor, allowed: Tensor, share: Tensor) -> Tensor:
    """(1 - w) p_end + w prior, the prior restricted to the allowed ends. [batch, width + 1].

    A mixture, so that an end which the marginals rule out by a small error of the network keeps
    the chance that the length prior gives it. share w [batch].
    """
    prior = log_prior.masked_fill(~allowed, NEG).softmax(1).to(p_end.dtype)
    w = share.to(p_end.dtype)[:, None]
    return (1 - w) * p_end + w * prior


def tail_mean(eos_mass: Tensor, length: Tensor, positions: int) -> Tensor:
    """Mean EOS mass over the last ``positions`` of each window. [batch, width] -> [batch]."""
    place = torch.arange(eos_mass.shape[1], device=eos_mass.device)
    tail = (place < length[:, None]) & (place >= (length - positions)[:, None])
    return (eos_mass * tail).sum(1) / tail.sum(1).clamp(min=1)


def beyond_probability(
    mean: Tensor, survival: Tensor, truncated: tuple[float, float], fits: tuple[float, float]
) -> Tensor:
    """P(the text does not fit | tail mean) by two Beta densities and the prior. [batch].

        P_b = S Beta(m; a0, b0) / [S Beta(m; a0, b0) + (1 - S) Beta(m; a1, b1)],   S = P(E > W).

    DAEDAL's test "EOS confidence < 0.5" is this likelihood ratio at fixed prior odds.
    """
    m = mean.double().clamp(1e-6, 1 - 1e-6)
    log_odds = _log_beta(m, truncated) - _log_beta(m, fits)
    s = survival.double().clamp(1e-12, 1 - 1e-12)
    return torch.sigmoid(log_odds + s.log() - torch.log1p(-s)).to(mean.dtype)


def _log_beta(x: Tensor, shape: tuple[float, float]) -> Tensor:
    a, b = (x.new_tensor(value) for value in shape)
    constant = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
    return constant + (a - 1) * x.log() + (b - 1) * torch.log1p(-x)


def with_beyond(p_end: Tensor, length: Tensor, beyond: Tensor) -> Tensor:
    """p_end with its beyond mass replaced: (1 - P_b) p(E | E <= W) on the window, P_b beyond.

    Rows whose committed tokens already rule one side out keep what they have.
    """
    column = torch.arange(p_end.shape[1], device=p_end.device)
    last = column == length[:, None]
    old = (p_end * last).sum(1, keepdim=True)
    inside = torch.where(last, 0.0, p_end) * ((1 - beyond[:, None]) / (1 - old).clamp(min=1e-30))
    replaced = torch.where(last, beyond[:, None], inside)
    return torch.where((old <= 0) | (old >= 1), p_end, replaced)


def beyond_mass(p_end: Tensor, length: Tensor) -> Tensor:
    """P(E > W) of each row. [batch]."""
    return p_end.gather(1, length[:, None])[:, 0]
