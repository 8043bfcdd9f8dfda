# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Priors over masks, and posteriors you can trust
#
# A mask is a picture of zeros and ones. Compression by inference asks for the probability of each
# pixel of that picture, and three questions decide whether the answer means anything:
#
# 1. What did we believe about masks **before** we saw the network? (chains, lattices, gates)
# 2. How do we get from evidence to a posterior, **exactly** where we can, and with a known error
#    where we cannot? (message passing)
# 3. Which **form** do we give the posterior of the weights? A careless choice has two answers to
#    one question, and the data do not decide which one you get.
#
# Everything here is small enough to be checked by brute force, and is. You need PyTorch and
# Bayes' rule; tutorial 01 shows the same pieces at work on a network. It runs in a minute and a
# half on one core.

# %%
import itertools
import math
import os
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from probcomp.inference import marginals, select_variables, turbo
from probcomp.inference.regression import Data, GammaRegression, GaussianRegression
from probcomp.inference.training import CollapsedGamma, PaperFactorised
from probcomp.inference.training.evidence import Scale, Weights
from probcomp.priors import Chain, GatedChain, Independent, Lattice

SMOKE = os.environ.get("SMOKE") == "1"  # smaller sizes, to see only that everything runs
OUT = Path(os.environ.get("TUTORIAL_OUT", "tutorial-02"))
OUT.mkdir(exist_ok=True)
generator = torch.Generator().manual_seed(0)
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.55"


def show(name: str) -> None:
    """Keep the current figure as a file, and show it where there is a screen."""
    plt.savefig(OUT / f"{name}.png", dpi=110, bbox_inches="tight")
    plt.show()
    plt.close()


def all_masks(size: int) -> torch.Tensor:
    """Every mask of ``size`` supports, [2^size, size]."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=size)), dtype=torch.float64)


# %% [markdown]
# ## 1. A chain: the smallest prior with neighbours
#
# Walk along a row of weights. The support switches on with probability $p_{01}$ and off with
# $p_{10}$. Two numbers fix both things one wants to say: the density
# $\lambda = p_{01} / (p_{01} + p_{10})$ and the mean length of a run, $1 / p_{10}$.

# %%
rows = 24
figure, axes = plt.subplots(1, 3, figsize=(10, 2.6))
for axis, run in zip(axes, (1.43, 5.0, 20.0)):
    off = 1 / run
    on = 0.3 / 0.7 * off  # density 0.3
    draws = Chain(p01=on, p10=off).sample((rows, 64), generator=generator)
    axis.imshow(draws, cmap="Greys", interpolation="nearest", aspect="auto")
    axis.set(title=f"mean run {run:g}: density {draws.float().mean():.2f}", xticks=[], yticks=[])
show("1-chains")

# %% [markdown]
# All three have the same density; each row is one draw. The first is the independent prior in
# disguise ($p_{01} = 1 - p_{10} = \lambda$).
#
# A chain is also a product of pair factors, $\log p(s) = \sum_n h_n s_n + J \sum_n s_n s_{n+1} +
# \text{const}$, with $J = \ln\frac{(1-p_{10})(1-p_{01})}{p_{01}\,p_{10}}$. That form shows how
# to infer. Let site $n$ tell site $n+1$ how much likelier "on" is there, given everything to the
# left. If $\theta$ is the log-odds of site $n$ so far, the message is
#
# $$ m = \ln(1 + e^{J + \theta}) - \ln(1 + e^{\theta}) , $$
#
# one number, between 0 (site $n$ is surely off) and $J$ (surely on). One pass from the left, one
# from the right, and the posterior log-odds of a site are its own evidence plus what arrives:

# %%


def chain_posterior(prior: Chain, evidence: torch.Tensor) -> torch.Tensor:
    """Log-odds of a chain's supports in a dozen lines; the library does the same by scans."""
    p01, p10 = prior.p01, prior.p10
    coupling = math.log((1 - p10) * (1 - p01) / (p01 * p10))
    field = torch.full_like(evidence, math.log(p01 / (1 - p01)) + math.log(p10 / (1 - p01)))
    field[0] = field[-1] = math.log(p01 / (1 - p01))  # the ends have one neighbour
    arriving = torch.zeros_like(evidence)
    for order in (range(len(evidence)), reversed(range(len(evidence)))):
        message = 0.0
        for n in order:
            arriving[n] += message
            theta = float(field[n] + evidence[n]) + message
            message = math.log1p(math.exp(coupling + theta)) - math.log1p(math.exp(theta))
    return field + evidence + arriving


chain = Chain(p01=0.1, p10=0.3)
evidence = 2 * torch.randn(12, generator=generator, dtype=torch.float64)
masks = all_masks(12)
joint = chain.log_prob(masks) + masks @ evidence
truth = torch.softmax(joint, 0) @ masks
ours = torch.sigmoid(chain_posterior(chain, evidence))
library = marginals(chain, evidence)
print(f"dozen lines against the sum over {len(masks)} masks: {(ours - truth).abs().max():.0e}")
print(f"library     against the same sum:         {(library.probability - truth).abs().max():.0e}")
assert (ours - truth).abs().max() < 1e-12
assert (library.probability - truth).abs().max() < 1e-12

# %% [markdown]
# The cost is linear in the length; the sum over masks doubles with each site. The picture shows
# what the neighbours did to each site: where two bars differ, the run around the site spoke.

# %%
place = torch.arange(12)
figure, axis = plt.subplots(figsize=(7, 2.8))
alone = marginals(Independent(0.25), evidence).probability
axis.bar(place - 0.2, alone, 0.4, color=GREY, label="independent prior, density 0.25")
axis.bar(place + 0.2, library.probability, 0.4, color=BLUE, label="chain, density 0.25")
axis.set(xlabel="site", ylabel="P(needed)", ylim=(0, 1.25), xticks=place)
axis.legend(loc="upper center", ncol=2, frameon=False)
show("2-what-neighbours-say")

# %% [markdown]
# ## 2. A lattice: neighbours in two directions
#
# A weight matrix has rows and columns, and the lattice couples both:
# $\log p(s) = \sum_n (f - \tfrac J2 \deg_n) s_n + J \sum_{n\sim m} s_n s_m - \ln Z$. The field
# is written so that $f = 0$ means one half at every coupling. Draws at $f = 0$:

# %%
side = 32 if SMOKE else 64
figure, axes = plt.subplots(1, 4, figsize=(12, 3.3))
for axis, coupling in zip(axes, (0.0, 0.8, 1.2, 1.5)):
    draw = Lattice(field=0.0, coupling=coupling).sample((side, side), generator=generator)
    axis.imshow(draw, cmap="Greys", interpolation="nearest")
    axis.set(title=f"J = {coupling:g}", xticks=[], yticks=[])
show("3-lattices")

# %% [markdown]
# Now there are loops, and messages come back to where they started. Passing them anyway until
# nothing changes is **loopy belief propagation**. It is an approximation, so we measure it: a
# 3 x 4 lattice, random evidence, against the sum over all 4,096 masks.

# %%
couplings = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
repeats = 5 if SMOKE else 20
errors = []
for coupling in couplings:
    prior = Lattice(field=0.0, coupling=coupling)
    log_prior = prior.log_prob(masks.view(-1, 3, 4))
    worst = 0.0
    for _ in range(repeats):
        l = torch.randn(3, 4, generator=generator, dtype=torch.float64)
        exact = torch.softmax(log_prior + masks @ l.flatten(), 0) @ masks
        found = marginals(prior, l, method="loopy", on_unreliable="ignore").probability
        worst = max(worst, float((found.flatten() - exact).abs().max()))
    errors.append(worst)
ORDERING = 4 * math.atanh(1 / 3)
figure, axis = plt.subplots(figsize=(6, 3.2))
axis.semilogy(couplings, errors, "o-", color=BLUE)
axis.axvline(ORDERING, color=ORANGE, ls="--", lw=1)
axis.text(ORDERING + 0.03, 3e-5, f"J = {ORDERING:.3f}", color=ORANGE)
axis.set(xlabel="coupling J", ylabel="largest error of a probability", ylim=(1e-5, 1))
show("4-error-of-messages")
print({j: f"{e:.1e}" for j, e in zip(couplings, errors)})
assert errors[couplings.index(1.0)] < 0.015

# %% [markdown]
# Below $J \approx 1.2$ the error is under a hundredth. The dashed line is where belief propagation
# on a grid *orders*, $J = 4\,\mathrm{artanh}(1/3) = 1.386$. The next section shows what that means.
#
# ## 3. A phase transition, and why a budget cares
#
# Give all sites the same weak evidence and move it from against to for. At a weak coupling the
# density follows smoothly. Above the ordering the neighbours hold each other in place: coming
# from "all off" the lattice stays off past the point where "on" is likelier, and the other way
# round. Messages are passed from where they stood, as in training.

# %%
wide = 16


def follow(coupling: float, fields: torch.Tensor) -> list[float]:
    """Density of a lattice while its field moves; each step starts from the last messages."""
    state, densities = None, []
    for field in fields.tolist():
        result = marginals(
            Lattice(field=0.0, coupling=coupling),
            torch.full((wide, wide), field, dtype=torch.float64),
            start=state,
            method="loopy",
            on_unreliable="ignore",
            need_log_z=False,
        )
        state = result.state
        densities.append(float(result.probability.mean()))
    return densities


fields = torch.linspace(-1.2, 1.2, 25 if SMOKE else 49)
figure, axes = plt.subplots(1, 3, figsize=(11, 2.9), sharey=True)
for axis, coupling in zip(axes, (0.8, 1.3, 1.9)):
    up, down = follow(coupling, fields), follow(coupling, fields.flip(0))[::-1]
    axis.plot(fields, up, color=BLUE, label="rising")
    axis.plot(fields, down, color=ORANGE, ls="--", label="falling")
    axis.set(title=f"J = {coupling:g}", xlabel="evidence of every site (nats)")
    if coupling < 1.38:
        assert max(abs(a - b) for a, b in zip(up, down)) < 0.01
    else:
        assert max(abs(a - b) for a, b in zip(up, down)) > 0.5
axes[0].set_ylabel("density")
axes[0].legend(frameon=False)
show("5-phase-transition")

# %% [markdown]
# A **budget** is a field: each weight pays a price in nats, and bisection finds the price at which
# the expected cost is what you asked for. In the left picture every density has its price. In the
# right one the densities between the branches have none: the price jumps over them. (The true
# lattice orders a little later, at $2\ln(1+\sqrt2) = 1.763$.) So the library caps couplings at
# 1.4, where it learns them from the posterior; `Blocks` makes larger clusters without this.
#
# ## 4. Gates: units and weights at once
#
# A neuron can go as a whole, and its weights can go one by one. Put a gate $t$ over each row: if
# it is closed, all its supports are off; if open, they follow a chain. This is still a tree, so
# the posterior is exact. Summing over the chain leaves one number for the gate,
#
# $$ \operatorname{logit} P(t = 1 \mid l) = \operatorname{logit} g + \ln Z_{\text{row}}(l),
#    \qquad Z_{\text{row}}(l) = \sum_s p(s)\, e^{\langle l, s \rangle} . $$

# %%
prior = GatedChain(gate=0.5, chain=Chain(p01=0.15, p10=0.25))
open_rows = torch.rand(16, generator=generator) < 0.5
support = prior.chain.sample((16, 40), generator=generator) & open_rows[:, None]
noise = 1.4
reading = (
    2 * support.double() - 1 + noise * torch.randn(16, 40, generator=generator, dtype=torch.float64)
)
l = 2 * reading / noise**2
density = float(support.float().mean())
alone = marginals(Independent(density), l).probability
same_density = Chain(p01=0.25 * density / (1 - density), p10=0.25)
rows_only = marginals(same_density, l).probability
gated = marginals(prior, l)
figure, axes = plt.subplots(1, 4, figsize=(13, 2.8))
pictures = (
    ("truth", support.double()),
    ("independent", alone),
    ("chain", rows_only),
    ("gated chain", gated.probability),
)
for axis, (title, picture) in zip(axes, pictures):
    wrong = float(((picture > 0.5) != support).double().mean())
    axis.imshow(picture, cmap="Greys", interpolation="nearest", aspect="auto", vmin=0, vmax=1)
    note = "" if title == "truth" else f": {wrong:.1%} wrong"
    axis.set(title=title + note, xticks=[], yticks=[])
show("6-gates")
found = gated.gate.probability > 0.5
print(f"gates right: {int((found == open_rows).sum())} of 16")

# The same gate by hand, for a row of ten: the sum over all masks of the chain.
short, ten = l[0, :10], all_masks(10)
log_z = torch.logsumexp(prior.chain.log_prob(ten) + ten @ short, 0)
by_hand = torch.sigmoid(log_z)  # g = 1/2: its log-odds are zero
by_library = marginals(prior, short).gate.probability
print(f"gate of a short row: {by_hand:.6f} by enumeration, {float(by_library):.6f} by recursion")
assert abs(float(by_hand - by_library)) < 1e-10

# %% [markdown]
# A closed row shows nothing, and the gate knows it: single loud readings in a dead row no longer
# count. In a network each weight has two gates, that of the neuron it feeds and that of the one it
# reads; then there are loops again, and messages are passed as on the lattice.
#
# ## 5. Three layers, and the trap in them
#
# Between support and weight the three-layer prior puts a precision: $s \to \rho \to w$, with
# $w \sim N(0, 1/\rho)$ and $\rho$ from one Gamma if the weight is needed (precision about 1) and
# from another if it is not (about 100 here). The obvious posterior takes the three apart:
# $q(w)\,q(\rho)\,q(s)$, as the method was published. Take the clearest case there is, a weight that
# is *exactly zero*, give it a start, and iterate the two closed-form updates until they settle.

# %%
scale = Scale(slab=1.0, kappa=0.01)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns of what we are about to see
    product = PaperFactorised()
collapsed = CollapsedGamma()


def settle(form, square: float, start: float, rounds: int = 20) -> list[float]:
    """Inclusion probability of one weight with mean square ``square``, round by round."""
    one = torch.ones(1, dtype=torch.float64)
    path = [start]
    for _ in range(rounds):
        weight = Weights(square**0.5 * one, 1e-300 * one, one, path[-1] * one)
        path.append(float(torch.sigmoid(form.update(weight, 0 * one, scale).log_odds)))
    return path


starts = (0.95, 0.7, 0.5, 0.3, 0.1, 0.02)
figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), sharey=True)
for start in starts:
    axes[0].plot(settle(product, 0.0, start), color=ORANGE, alpha=0.8)
    axes[1].plot(settle(collapsed, 0.0, start), color=BLUE, alpha=0.8)
axes[0].set(title="product form, a weight that is zero", xlabel="round", ylabel="P(needed)")
axes[1].set(title="precision integrated out", xlabel="round", ylim=(-0.03, 1.03))
show("7-bistable")
high, low = settle(product, 0.0, 0.5)[-1], settle(product, 0.0, 0.001)[-1]
print(f"product form: {high:.4f} from a start of 0.5, {low:.1e} from a start of 0.001")
print(f"integrated:   {settle(collapsed, 0.0, 0.5)[-1]:.4f} from anywhere")
assert abs(high - 0.9548) < 1e-3
assert low < 1e-6

# %% [markdown]
# A weight that is exactly zero is "needed" with 95 % or 0 % probability, as you like. The reason:
# if $q(s)$ starts near 1, $q(\rho)$ takes the wide Gamma, and a wide $\rho$ is then *evidence* for
# the wide Gamma. The two feed each other, and the weight is never asked. The cure costs one line:
# given $s$, sum over $\rho$ (**collapse** it). Then $l$ is a function of the weight alone. Over
# all sizes of a weight:

# %%
sizes = torch.logspace(-2, 1, 30 if SMOKE else 80, dtype=torch.float64)
curves = {
    "product, start 0.95": [settle(product, float(w) ** 2, 0.95)[-1] for w in sizes],
    "product, start 0.05": [settle(product, float(w) ** 2, 0.05)[-1] for w in sizes],
    "collapsed": [settle(collapsed, float(w) ** 2, 0.5, 1)[-1] for w in sizes],
}
figure, axis = plt.subplots(figsize=(6.5, 3.2))
for (label, curve), color, style in zip(curves.items(), (ORANGE, ORANGE, BLUE), ("-", "--", "-")):
    axis.semilogx(sizes, curve, color=color, ls=style, label=label)
axis.set(xlabel="size of the weight, in units of the slab", ylabel="P(needed)", ylim=(-0.03, 1.03))
axis.legend(frameon=False)
show("8-one-answer")

# %% [markdown]
# Between the two orange curves the start decides; in training that is every weight of ordinary
# size or less. `PaperFactorised` is in the library so that this can be shown, and warns when used.
#
# ## 6. The weight itself: collapsed or joint
#
# With the precision out of the way one loop is left, between $q(w)$ and $q(s)$: a weight believed
# unneeded is pulled to zero, and then looks unneeded. The **joint** form $q(w_n \mid s_n)\,q(s_n)$
# keeps two values of the weight, one for each answer, and compares them. Ten weights on a chain,
# twenty noisy measurements, thirty times; the truth is the sum over all 1,024 masks.

# %%
SLAB, SPIKE = 1.0, 400.0  # precisions
ten = all_masks(10)
count = 8 if SMOKE else 30


def problem(seed: int) -> Data:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(20, 10, dtype=torch.float64, generator=g)
    needed = chain.sample((10,), generator=g)
    spread = torch.where(needed, SLAB**-0.5, SPIKE**-0.5)
    w = spread * torch.randn(10, dtype=torch.float64, generator=g)
    return Data(x, x @ w + 0.5 * torch.randn(20, dtype=torch.float64, generator=g), 4.0)


def exact_probabilities(data: Data) -> torch.Tensor:
    variance = torch.where(ten > 0, 1 / SLAB, 1 / SPIKE)
    covariance = (data.x * variance[:, None, :]) @ data.x.T + torch.eye(20) / data.noise_precision
    evidence = torch.distributions.MultivariateNormal(torch.zeros_like(data.y), covariance)
    return torch.softmax(evidence.log_prob(data.y) + chain.log_prob(ten), 0) @ ten


answers: dict[str, list[torch.Tensor]] = {
    name: [] for name in ("exact", "joint", "small", "large", "ep")
}
for seed in range(count):
    data = problem(seed)
    answers["exact"].append(exact_probabilities(data))
    forms = {
        "joint": GaussianRegression(data, SLAB, SPIKE),
        "small": GammaRegression(data, 20.0, 20 / SLAB, 20.0, 20 / SPIKE, start_square=1e-4),
        "large": GammaRegression(data, 20.0, 20 / SLAB, 20.0, 20 / SPIKE, start_square=1.0),
    }
    for name, form in forms.items():
        answers[name].append(turbo(form, chain, size=(10,)).probability)
    found = select_variables(data, chain, slab=SLAB, spike=SPIKE, inference="ep")
    answers["ep"].append(found.probability)
stacked = {name: torch.cat(values) for name, values in answers.items()}
figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
panels = (
    ("q(w) q(s), precision collapsed", (("small", "start: all small", GREEN, "o"),
                                        ("large", "start: all large", ORANGE, "x"))),
    ("joint q(w|s) q(s)", (("joint", "joint", BLUE, "o"),)),
)  # fmt: skip
for axis, (title, series) in zip(axes, panels):
    axis.plot([0, 1], [0, 1], color="0.8", lw=1)
    for name, label, color, marker in series:
        axis.plot(
            stacked["exact"], stacked[name], marker, color=color, ms=4, alpha=0.6, label=label
        )
    axis.set(title=title, xlabel="exact P(needed)")
    axis.legend(frameon=False)
axes[0].set_ylabel("approximate P(needed)")
show("9-joint")
for name in ("joint", "small", "large", "ep"):
    off = (stacked[name] - stacked["exact"]).abs()
    print(f"{name:>6}: mean error {off.mean():.3f}, largest {off.max():.2f}")
assert float(off.max()) < 0.06  # of the last, expectation propagation

# %% [markdown]
# Points on the diagonal are right. The collapsed form answers nearly yes or no, and for some
# weights the start still picks the answer; the joint form stays near the truth. While a network
# trains, the library uses the collapsed form with one more guard (a weight's own width counts only
# as far as the data determined it); after training, where the loss is nearly quadratic, it uses
# forms of the joint kind.
#
# The last line printed, `ep`, is expectation propagation given the two weights that are least
# sure. For a regression of your own, `select_variables(data, prior, slab=..., spike=...)` sums over
# all masks up to sixteen weights and does this beyond; `inference=` picks any other form.
#
# ## 7. Say it once
#
# One rule holds the parts together. Evidence $l$ goes from the weights to the prior; what comes
# back is $\psi$, the posterior *minus* $l$. Break it, by handing over the posterior itself, and
# each side hears its own voice again in every round. Forty-eight sites, weak evidence:

# %%
lattice = Lattice(field=0.0, coupling=0.865)
l = 0.5 * torch.randn(6, 8, generator=generator, dtype=torch.float64)
right, wrong = [], []
psi = torch.zeros_like(l)
for _ in range(15):
    right.append(torch.sigmoid(marginals(lattice, l).log_odds))
    belief = marginals(lattice, l + psi).log_odds  # hears its own last answer as evidence
    wrong.append(torch.sigmoid(belief))
    psi = belief
figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
for axis, paths, color, title in zip(
    axes, (right, wrong), (BLUE, ORANGE), ("evidence passed once", "posterior fed back")
):
    axis.plot(torch.stack([p.flatten() for p in paths]), color=color, alpha=0.4)
    axis.set(title=title, xlabel="round", ylim=(-0.03, 1.03))
axes[0].set_ylabel("P(needed)")
show("10-say-it-once")
certain = float(((wrong[-1] - 0.5).abs() > 0.49).double().mean())
print(f"fed back, {certain:.0%} of the sites end certain; none of them should")
assert certain > 0.7
assert float((right[-1] - 0.5).abs().max()) < 0.35

# %% [markdown]
# ## Where to go from here
#
# - `probcomp/mini.py` is the whole method in under two hundred lines, without the library.
# - Your own prior: a frozen dataclass with `log_prob` and `sample`, and one function that solves
#   for its marginals; `probcomp.testing` has the contract test that it must pass.
# - Tutorial 01 runs these parts on a network and checks the probabilities by taking weights away.
