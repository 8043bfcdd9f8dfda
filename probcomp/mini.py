"""The core of probcomp again, in one file of torch, to be read from top to bottom.

Which weights does a model need? Give every weight ``w_n`` a switch ``s_n``, 0 or 1, and infer the
switches. Four pieces do it, and a test holds each to the full implementation.

    1. a prior on switches    neighbours tend to agree: a Markov chain
    2. evidence               what the value of a weight says about its switch: log-odds ``l``
    3. message passing        evidence and prior give the posterior, ``P(s_n = 1 | data)``
    4. a price                a budget is a field on the switches, found by bisection

Pieces 2 and 3 take turns. The one rule of the game: each tells the other only what the other did
not say itself. Evidence ``l`` goes over; what comes back is ``psi``, the posterior minus ``l``.

    python -m probcomp.mini
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

# ------------------------------------------------------------------------------------------------
# 1. The prior. A chain switches on with probability p01 and off with p10. Written with pairs,
#    log p(s) = sum_t h_t s_t + J sum_t s_t s_{t+1} + log p(0): a field at each site, a coupling.


def chain_fields(p01: float, p10: float, size: int) -> tuple[Tensor, float, float]:
    """Fields ``h`` [size], coupling ``J`` and ``log p(all off)``, all in nats."""
    child = math.log(p01 / (1 - p01))  # the site given that the one before is off
    parent = math.log(p10 / (1 - p01))  # what the site after it adds
    field = torch.full((size,), child + parent, dtype=torch.float64)
    field[0] = field[-1] = child if size > 1 else child - parent
    coupling = math.log((1 - p01) * (1 - p10) / (p01 * p10))
    log_zero = math.log(p10 / (p01 + p10)) + (size - 1) * math.log(1 - p01)
    return field, coupling, log_zero


# ------------------------------------------------------------------------------------------------
# 2. Evidence. A weight that is on has variance about v ("slab"), one that is off about kappa * v
#    ("spike"). Its precision is uncertain, rho ~ Gamma(a, b), and is integrated out:
#        ln f(a, b) = a ln b - lnGamma(a) + lnGamma(a + 1/2) - (a + 1/2) ln(b + E[w^2] / 2).


def log_f(square: Tensor, a: float, b: float) -> Tensor:
    """Log evidence of a weight with second moment ``square`` under Gamma(a, b), nats."""
    constant = a * math.log(b) - math.lgamma(a) + math.lgamma(a + 0.5)
    return constant - (a + 0.5) * torch.log(b + square / 2)


def evidence(square: Tensor, slab: float, kappa: float, a: float = 1.0) -> Tensor:
    """Log-odds ``l`` that each weight is on; it never sees the prior, so nothing counts twice."""
    return log_f(square, a, a * slab) - log_f(square, a, a * kappa * slab)


def precision(square: Tensor, on: Tensor, slab: float, kappa: float, a: float = 1.0) -> Tensor:
    """``E[rho]`` when a weight is on with probability ``on``: the ridge of the next weight step."""
    wide = (a + 0.5) / (a * slab + square / 2)
    narrow = (a + 0.5) / (a * kappa * slab + square / 2)
    return on * wide + (1 - on) * narrow


# ------------------------------------------------------------------------------------------------
# 3. Message passing. Site t tells its neighbour how much likelier "on" is there, given everything
#    on its own side: m = ln(1 + (e^J - 1) sigma(theta)), theta the log-odds of t so far. One pass
#    from each end makes the posterior exact.


def pass_messages(l: Tensor, p01: float, p10: float) -> tuple[Tensor, float]:
    """Extrinsic log-odds ``psi`` [size] and ``log Z = ln sum_s p(s) exp(l . s)``."""
    field, coupling, log_zero = chain_fields(p01, p10, len(l))
    base = field + l
    log_z = log_zero
    sums = []
    for order in (range(len(l)), reversed(range(len(l)))):
        message, incoming = 0.0, torch.zeros_like(l)
        for t in order:
            incoming[t] = message
            theta = float(base[t]) + message
            message = math.log1p(math.expm1(coupling) / (1 + math.exp(-theta)))
        sums.append(incoming)
    log_z -= float(logsigmoid(-base - sums[0]).sum())  # ln(1 + e^theta) of each site
    return field + sums[0] + sums[1], log_z


# ------------------------------------------------------------------------------------------------
#    Pieces 2 and 3 take turns. Here the model is linear regression, so that the weight step has a
#    closed form: q(w) is Gaussian with covariance (X'X / noise + diag E[rho])^-1. In a network it
#    is a few epochs of stochastic gradients on the same objective.


def alternate(
    x: Tensor,
    y: Tensor,
    *,
    noise: float,
    p01: float,
    p10: float,
    slab: float,
    kappa: float,
    iterations: int = 30,
) -> tuple[Tensor, Tensor, Tensor]:
    """Evidence ``l``, extrinsic ``psi`` and posterior weight means, ``[size]`` each."""
    gram, cross = x.T @ x / noise, x.T @ y / noise
    psi, _ = pass_messages(torch.zeros(x.shape[1], dtype=x.dtype), p01, p10)
    rho = torch.full_like(psi, 1 / slab)
    for _ in range(iterations):
        covariance = torch.linalg.inv(gram + torch.diag(rho))
        mean = covariance @ cross
        square = mean.square() + covariance.diagonal()
        l = evidence(square, slab, kappa)  # weights to switches
        psi, _ = pass_messages(l, p01, p10)  # switches to weights: what the neighbours say
        rho = precision(square, torch.sigmoid(psi + l), slab, kappa)
    return l, psi, mean


# ------------------------------------------------------------------------------------------------
# 4. The price. "At most C switches on, on average" adds -price to every log-odds. The expected
#    number falls as the price rises (its slope is minus a variance), so bisection finds it.


def expected_on(l: Tensor, price: float, p01: float, p10: float) -> Tensor:
    """Posterior probabilities when each switch that is on costs ``price`` nats."""
    priced = l - price
    psi, _ = pass_messages(priced, p01, p10)
    return torch.sigmoid(psi + priced)


def solve_price(l: Tensor, budget: float, p01: float, p10: float) -> float:
    """The price at which ``budget`` switches are on in expectation; 0 if fewer are anyway."""
    if expected_on(l, 0.0, p01, p10).sum() <= budget:
        return 0.0
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        if expected_on(l, middle, p01, p10).sum() > budget:
            low = middle
        else:
            high = middle
    return high


def keep(l: Tensor, budget: int, p01: float, p10: float) -> Tensor:
    """The mask: the ``budget`` switches most probably on at the price of the budget."""
    probability = expected_on(l, solve_price(l, budget, p01, p10), p01, p10)
    mask = torch.zeros(len(l), dtype=torch.bool)
    mask[probability.argsort(descending=True, stable=True)[:budget]] = True
    return mask


def demonstrate(seed: int, p01: float, p10: float) -> tuple[Tensor, Tensor]:
    """Two runs of needed weights among sixty, from 120 noisy measurements: the truth, the mask."""
    generator = torch.Generator().manual_seed(seed)
    size, samples, noise = 60, 120, 10.0
    truth = torch.zeros(size, dtype=torch.float64)
    truth[8:16], truth[37:43] = 1.0, -0.7
    x = torch.randn(samples, size, generator=generator, dtype=torch.float64)
    error = torch.randn(samples, generator=generator, dtype=torch.float64)
    y = x @ truth + noise**0.5 * error
    l, _, _ = alternate(x, y, noise=noise, p01=p01, p10=p10, slab=0.7, kappa=0.01)
    return truth != 0, keep(l, 14, p01, p10)


def main() -> None:
    """The same density with and without coupling, on five data sets."""
    for name, p01, p10 in (("independent", 0.235, 0.765), ("chain", 0.08, 0.26)):
        print(f"{name}: P(on | off) = {p01}, P(off | on) = {p10}")
        for seed in range(5):
            truth, mask = demonstrate(seed, p01, p10)
            line = "".join("#" if on else "." for on in mask)
            print(f"  {line}  {int((mask & truth).sum())} of 14")
    print("  " + "".join("#" if on else "." for on in truth) + "  truth")


if __name__ == "__main__":
    main()
