r"""What speaks for a block border, with the delimiters of finished answers as weak labels.

Logistic regression of [the token at i is a delimiter] on (logit delta_i, H_{i+1} - H_i) at the
first forward. Its log-odds less those of the base rate are the likelihood ratio r_i of
`probcomp.decoding.boundary`. The duration law (mean, shape) maximises sum log Z of the
semi-Markov posterior under those weights.
"""

import math
from collections.abc import Sequence

import torch

from probcomp.decoding.blocks import structure_posterior
from probcomp.decoding.boundary import BoundaryWeights, boundary_evidence
from probcomp.decoding.calibrating.ends import posterior
from probcomp.decoding.calibrating.states import States
from probcomp.decoding.durations import NegativeBinomial, log_duration
from probcomp.decoding.end_model import EndModel
from probcomp.decoding.length import NEG, LengthPrior

FEWEST = 30  # delimiters that a fit needs
SHAPES = (1.0, 2.0, 4.0, 8.0)


def fit_borders(
    states: States,
    delimiters: Sequence[tuple[int, float]],
    weights: tuple[float, float, float, float, float],
    end: EndModel,
    prior: LengthPrior,
    longest: int,
) -> dict[str, object]:
    """Options ``boundary_weights``, ``block_mean`` and ``block_shape``; empty with few labels."""
    ids = torch.tensor([token for token, _ in delimiters], dtype=torch.long)
    label = torch.isin(states.truth, ids)
    use = states.content & states.valid & states.masked
    count = int((label & use).sum())
    if count < FEWEST or count == int(use.sum()):
        return {}
    f = states.features
    mass = f.delimiter.double().clamp(1e-6, 1 - 1e-6)
    step = torch.nn.functional.pad(f.entropy[:, 1:] - f.entropy[:, :-1], (0, 1)).double()
    x = torch.stack((torch.ones_like(mass), mass.logit().clamp(-12, 12), step), dim=-1)[use]
    y = label[use].double()
    beta, eye = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    for _ in range(50):
        p = torch.sigmoid(x @ beta)
        curvature = (x * (p * (1 - p))[:, None]).T @ x + eye
        beta = beta + torch.linalg.solve(curvature, x.T @ (y - p) - beta).clamp(-2, 2)
    rate = count / int(use.sum())
    fitted = (float(beta[0]) - math.log(rate / (1 - rate)), float(beta[1]), float(beta[2]))
    all_weights = (*fitted, *weights[3:])
    r = boundary_evidence(
        f.delimiter,
        f.entropy,
        torch.zeros_like(states.masked),
        states.length,
        BoundaryWeights(*all_weights),
    ).double()
    ends = posterior(end, states, prior).log().clamp(min=NEG)
    best = (-math.inf, 0.0, 0.0)
    means = sorted({min(m, longest - 1.0) for m in (2.0, 4.0, 8.0, 16.0, 24.0, 32.0) if m > 1})
    for mean in means:
        for shape in SHAPES:
            law = log_duration(NegativeBinomial(mean, shape, longest))
            z = float(structure_posterior(ends, r, law).log_evidence.mean())
            best = max(best, (z, mean, shape))
    return {"boundary_weights": all_weights, "block_mean": best[1], "block_shape": best[2]}
