r"""What the EOS marginals say about the end, fitted: tail densities, Platt, temper, trust.

``tail``   two Beta densities, by moments, of the mean EOS mass at the end of the canvas: on
           canvases that cut the answer and on canvases that hold it
``platt``  logistic regression of [i >= E] on logit e_i
``model``  cdf or hmm, with or without the tail correction, the temper rho on a grid: the one of
           best log score, sum log p_end(E true)
``noise``  how far the marginals are off: the least within a standard error of the best likelihood
           on wholly masked canvases
``tilt``   nats per token against long answers, by likelihood on wholly masked canvases, where it
           gains a standard error
``share``  how much of the length prior to mix in, by EM, as a function of the entropy of p_end:
           w = E[chance that the prior, not the model, produced the end]
"""

from dataclasses import replace

import torch
from torch import Tensor

from probcomp.decoding.calibrating.states import CANVASES, States
from probcomp.decoding.end import allowed_ends, shrunk, tail_mean, tilted
from probcomp.decoding.end_model import EndModel
from probcomp.decoding.length import LengthPrior

TEMPERS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
CUTS = (0.05, 0.4, 1.2)  # nats: entropies between which the trust in a model is fitted
LEAST = 12  # states that a range of entropies needs for a share of its own
FLOOR = 1e-9
TILTS = tuple(round(-0.3 + 0.01 * i, 2) for i in range(61))
NOISES = (0.0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05)
TILT_FLOOR = 1e-3


def posterior(model: EndModel, states: States, prior: LengthPrior) -> Tensor:
    """p_end of each state, float64 [states, width + 1]."""
    mass, log_prior, allowed = _evidence(states, prior)
    return model.read(mass, states.masked, allowed, log_prior, states.length)[1]


def log_score(model: EndModel, states: States, prior: LengthPrior) -> Tensor:
    """log p_end(true end), nats per state."""
    p = posterior(model, states, prior).clamp(min=FLOOR)
    return p.gather(1, states.column[:, None])[:, 0].log()


def _evidence(states: States, prior: LengthPrior) -> tuple[Tensor, Tensor, Tensor]:
    width = states.truth.shape[1]
    visible = states.valid & ~states.masked
    eos = visible & ~states.content
    allowed = allowed_ends(visible & states.content, eos, states.length)
    mass = torch.where(states.masked, states.features.eos.double(), eos.double())
    return mass, prior.log_end(states.length, width), allowed


def prior_score(states: States, prior: LengthPrior) -> Tensor:
    """log of the prior at the true end, restricted to what visible tokens allow, per state."""
    _, log_prior, allowed = _evidence(states, prior)
    p = log_prior.masked_fill(~allowed, -1e30).softmax(1).clamp(min=FLOOR)
    return p.gather(1, states.column[:, None])[:, 0].log()


def fit_beta(values: Tensor) -> tuple[float, float]:
    """Beta(a, b) by moments; flat when there is nothing to fit."""
    if len(values) < 2:
        return (1.0, 1.0)
    mean = float(values.mean().clamp(0.01, 0.99))
    variance = max(float(values.var()), 1e-4)
    weight = max(min(mean * (1 - mean) / variance - 1, 200.0), 0.5)
    return (mean * weight, (1 - mean) * weight)


def fit_platt(
    logit: Tensor,
    label: Tensor,
    rounds: int = 30,
    precision: tuple[float, float] = (1e-2, 1e-2),
) -> tuple[float, float]:
    """(intercept, slope) of a logistic regression, by Newton. Both have a Gaussian prior, at 0 and
    at 1, of this ``precision``: what few or no labels of one kind leave open stays there."""
    x = torch.stack((torch.ones_like(logit), logit), dim=1).double()
    y, beta = label.double(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    middle, weight = beta.clone(), torch.diag(torch.tensor(precision, dtype=torch.float64))
    for _ in range(rounds):
        p = torch.sigmoid(x @ beta)
        gradient = x.T @ (y - p) - weight @ (beta - middle)
        curvature = (x * (p * (1 - p))[:, None]).T @ x + weight
        step = torch.linalg.solve(curvature, gradient)
        beta = beta + step.clamp(-2.0, 2.0)
        if float(step.abs().max()) < 1e-8:
            break
    return float(beta[0]), float(beta[1])


def fit_end(
    full: States, partly: States, prior: LengthPrior, tail_window: int, lengths: bool = True
) -> EndModel:
    """The end model of best log score on both kinds of states, with its trust in the prior."""
    mean = tail_mean(full.features.eos.double(), full.length, tail_window)
    tail = {
        "tail_truncated": fit_beta(mean[~full.fits]),
        "tail_fits": fit_beta(mean[full.fits]),
        "tail_window": tail_window,
    }
    at = full.valid
    eos = full.features.eos.double().clamp(1e-9, 1 - 1e-9)
    logit = (eos.log() - torch.log1p(-eos)).clamp(-12, 12)
    platt = fit_platt(logit[at], ~full.content[at])
    candidates = [EndModel("cdf", beyond, **tail) for beyond in (False, True)]  # type: ignore[arg-type]
    candidates += [
        EndModel("hmm", beyond, rho, platt, **tail)  # type: ignore[arg-type]
        for rho in TEMPERS
        for beyond in (False, True)
    ]
    scored = [
        _with_share(_with_tilt(_with_noise(model, full, prior), full, prior), full, partly, prior)
        for model in candidates
    ]
    return max(
        scored,
        key=lambda model: float(
            log_score(model, full, prior).mean() + log_score(model, partly, prior).mean()
        ),
    )


def _with_noise(model: EndModel, full: States, prior: LengthPrior) -> EndModel:
    """The model with the least noise within a paired standard error of the best likelihood, where
    it reads differences of marginals.

    What is taken for noise is lost to ends that are rare but real, so more than the answers ask
    for is not taken. The canvases of one answer say the same thing: answers are counted.
    """
    if model.end_model != "cdf" or model.beyond:
        return model
    base = posterior(model, full, prior)

    def score(noise: float) -> Tensor:
        p = shrunk(base, noise, full.length)
        return p.gather(1, full.column[:, None])[:, 0].clamp(min=FLOOR).log()

    scores = [score(noise) for noise in NOISES]
    best = max(scores, key=lambda values: float(values.mean()))
    answers = max(len(best) / CANVASES, 1.0)
    loss = [best - values for values in scores]
    good = [float(x.mean()) <= float(x.std(correction=0)) / answers**0.5 for x in loss]
    return replace(model, end_noise=NOISES[good.index(True)] if any(good) else 0.0)


def _with_tilt(model: EndModel, full: States, prior: LengthPrior) -> EndModel:
    """The model with the tilt of highest likelihood, or none where that gains less than a paired
    standard error over the answers: fitted to their luck, it would move every length that is drawn.
    A floor keeps one miss from ruling it."""

    def score(tilt: float) -> Tensor:
        p = tilted(base, tilt, full.length)
        return (p.gather(1, full.column[:, None])[:, 0] + TILT_FLOOR).log()

    base = posterior(model, full, prior)
    best = max(TILTS, key=lambda tilt: float(score(tilt).mean()))
    gain = score(best) - score(0.0)
    answers = max(len(gain) / CANVASES, 1.0)
    sure = float(gain.mean()) > float(gain.std(correction=0)) / answers**0.5
    return replace(model, end_tilt=best if sure else 0.0)


def _with_share(
    model: EndModel, full: States, partly: States, prior: LengthPrior, rounds: int = 50
) -> EndModel:
    """The model with the share of the prior by EM in each range of entropies."""
    own, base, entropy = [], [], []
    for states in (full, partly):
        p = posterior(model, states, prior)
        own.append(p.gather(1, states.column[:, None])[:, 0])
        entropy.append(torch.special.entr(p).sum(1))
        base.append(prior_score(states, prior).exp())
    p, q, h = torch.cat(own), torch.cat(base), torch.cat(entropy)
    knots = []
    for low, high in zip((-1.0, *CUTS), (*CUTS, float("inf"))):
        on = (h > low) & (h <= high)
        if int(on.sum()) < LEAST:
            continue
        share = 0.1
        for _ in range(rounds):
            from_prior = share * q[on] / (share * q[on] + (1 - share) * p[on]).clamp(min=1e-300)
            # Jeffreys' half a count on either side: no share is ever quite 0 or 1.
            share = float((from_prior.sum() + 0.5) / (on.sum() + 1))
        knots.append((float(h[on].mean()), share))
    return replace(model, end_share=tuple(knots))
