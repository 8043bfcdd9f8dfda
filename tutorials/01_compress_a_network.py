# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Compress a network, and know how sure you are
#
# Pruning asks which weights may go. Put as a question of probability: every weight $w_n$ has a
# **support** $s_n \in \{0, 1\}$ that says whether it is needed, and we want
#
# $$ P(s_n = 1 \mid \text{data}) . $$
#
# By Bayes' rule the log-odds of that are a sum of two numbers, both in nats:
#
# $$ \operatorname{logit} P(s_n = 1 \mid \text{data}) \;=\;
#    \underbrace{\psi_n}_{\text{what we believed, neighbours included}} \;+\;
#    \underbrace{l_n}_{\text{what the data say about this weight}} . $$
#
# This page builds $\psi$ and $l$ one after the other, lets them talk to each other, and then
# compresses a real network. At the end it checks that the probabilities mean what they say.
#
# You need to know PyTorch and what a posterior is. It runs in under two minutes on two CPU cores.

# %%
import itertools
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

import probcomp
from probcomp.data import Batches, load_digits
from probcomp.inference import marginals
from probcomp.inference.training import TurboConfig
from probcomp.inference.training.evidence import log_slab
from probcomp.models import LeNet300100
from probcomp.models.train import train
from probcomp.priors import Independent, Lattice

SMOKE = os.environ.get("SMOKE") == "1"  # smaller sizes, to see only that everything runs
OUT = Path(os.environ.get("TUTORIAL_OUT", "tutorial-01"))
OUT.mkdir(exist_ok=True)
torch.manual_seed(0)


def show(name: str) -> None:
    """Keep the current figure as a file, and show it where there is a screen."""
    plt.savefig(OUT / f"{name}.png", dpi=110, bbox_inches="tight")
    plt.show()
    plt.close()


# %% [markdown]
# ## 1. What we believe before: a prior over masks
#
# The simplest belief is that each weight is needed with probability $d$, whatever the others do:
# `Independent(d)`. Hardware and people prefer masks in which the survivors stand together. The
# **lattice** says that neighbours in the weight matrix tend to agree:
#
# $$ \log p(s) = \sum_n \Big(f - \tfrac J2 \deg_n\Big) s_n + J \sum_{n \sim m} s_n s_m - \log Z . $$
#
# The field $f$ alone sets the density ($f = 0$ is one half at *any* coupling); the coupling $J$
# alone sets how much survivors cluster. Two draws at a density of about one quarter:

# %%
generator = torch.Generator().manual_seed(1)
scattered = Independent(0.25).sample((48, 48), generator=generator)
clustered = Lattice(field=-0.1, coupling=1.4).sample((48, 48), generator=generator)
figure, axes = plt.subplots(1, 2, figsize=(7, 3.6))
for axis, mask, title in zip(axes, (scattered, clustered), ("Independent", "Lattice, J = 1.4")):
    axis.imshow(mask, cmap="Greys", interpolation="nearest")
    axis.set(title=f"{title}: density {mask.float().mean():.2f}", xticks=[], yticks=[])
show("1-prior-draws")

# %% [markdown]
# Neither prior has seen any data. Their densities are alike; the lattice's survivors come in
# clusters.
#
# ## 2. What the data say: the evidence of a weight
#
# Training gives a posterior over each weight's value, with a mean and a variance, so with a mean
# square $E[w^2]$. The three-layer prior (Xia, Tsang and Lau, 2023) explains a weight in one of
# two ways: as a **slab** (needed: of ordinary size $v$) or as a **spike** (not needed: a thousand
# times smaller in square). Between support and weight stands a precision $\rho$ with a Gamma
# prior; we integrate it out, which leaves the closed form
#
# $$ l = \log f(a, b) - \log f(\bar a, \bar b), \qquad
#    \log f(a,b) = a\log b - \log\Gamma(a) + \log\Gamma(a + \tfrac12)
#                  - (a+\tfrac12) \log\big(b + \tfrac12 E[w^2]\big). $$

# %%
slab, kappa = 1.0, 1e-3
size = torch.logspace(-3, 1, 400)
evidence = log_slab(size**2, 1.0, slab) - log_slab(size**2, 1.0, kappa * slab)
figure, axis = plt.subplots(figsize=(6, 3.4))
axis.semilogx(size, evidence, color="#0072B2")
axis.axhline(0, color="0.6", lw=0.8)
axis.set(
    xlabel="size of the weight, in units of the slab",
    ylabel="evidence $l$ (nats)",
    title="A small weight is evidence against its own support",
)
show("2-evidence")
crossing = size[(evidence > 0).nonzero()[0]].item()
print(f"between {evidence[0]:.2f} and {evidence[-1]:.2f} nats; undecided at |w| = {crossing:.3f}")

# %% [markdown]
# The evidence is *bounded*: a tiny weight argues against itself with $\tfrac12\log(1/\kappa)$
# nats, no more. So a few confident neighbours, or a strict budget, can overrule it, and a prior
# on the scale of these numbers matters.
#
# ## 3. Putting them together: message passing
#
# With an independent prior, $\psi$ is just the prior's log-odds. With a lattice, $\psi_n$ depends
# on the neighbours, theirs on their neighbours, and so on. **Belief propagation** solves this:
# each site tells each neighbour what it believes *without* what that neighbour told it, until
# nothing changes. On a small lattice we can check it against the sum over all masks.

# %%
small = 3 * torch.randn(3, 4, dtype=torch.float64)
prior = Lattice(field=-0.5, coupling=1.0)
masks = torch.tensor(list(itertools.product([0.0, 1.0], repeat=12)), dtype=torch.float64)
joint = prior.log_prob(masks.view(-1, 3, 4)) + masks @ small.flatten()
exact = (torch.softmax(joint, 0) @ masks).view(3, 4)
passed = marginals(prior, small, method="loopy").probability
error = float((passed - exact).abs().max())
print(f"largest error of belief propagation over {len(masks)} masks: {error:.1e}")
assert error < 0.02

# %% [markdown]
# Now a case too large to enumerate ($2^{2304}$ masks): the clustered mask from above, seen
# through noise. A reading $x = \pm 1 + 1.2\,\epsilon$ is evidence of $2x / 1.2^2$ nats. By itself
# it is often wrong; the neighbours' help takes away about a quarter of the mistakes.

# %%
truth = clustered.float()
reading = 2 * truth - 1 + 1.2 * torch.randn(48, 48, generator=generator)
noisy = 2 * reading / 1.2**2
alone = marginals(Independent(0.25), noisy).probability
together = marginals(Lattice(field=-0.1, coupling=1.4), noisy).probability
figure, axes = plt.subplots(1, 4, figsize=(12, 3.3))
pictures = (truth, noisy, alone, together)
titles = ("truth", "evidence", "independent prior", "lattice prior")
for axis, picture, title in zip(axes, pictures, titles):
    wrong = ((picture > 0.5).float() != truth).float().mean()
    text = title if title in ("truth", "evidence") else f"{title}: {wrong:.1%} wrong"
    axis.imshow(picture, cmap="Greys", interpolation="nearest")
    axis.set(title=text, xticks=[], yticks=[])
show("3-message-passing")

# %% [markdown]
# Two rules keep this honest, and most public code of such methods breaks one of them:
#
# - What goes from the weights to the lattice is $l$, *not* the posterior: the lattice already
# knows what it said. What comes back is $\psi$ = posterior minus $l$. Anything else counts the
# same evidence twice, and in a few rounds every probability is 0 or 1.
# - $\psi$ then changes the prior of the next weight step: a weight whose neighbours are needed is
# pulled to zero less. That is all the two halves of Turbo-VBI tell each other.
#
# ## 4. A network
#
# Eight-by-eight pictures of handwritten digits and a 64-300-100-10 network: 50,610 parameters,
# far too many for the task, which nobody but the posterior can tell us.

# %%
data = load_digits(seed=0)
model = LeNet300100(inputs=64)
epochs = 5 if SMOKE else 30
train(model, Batches(data.train, batch_size=64, seed=0), epochs=epochs, seed=0)

# %% [markdown]
# `compress` traces the network to find what can be removed (a hidden neuron is a row of one
# matrix, an entry of a bias and a column of the next matrix, and they must go together), trains
# it under the prior, and asks for a tenth of the parameters. The **budget** is a price on each
# parameter, in nats: a weight stays if its log-odds pay for it. Bisection finds the price that
# meets the budget.

# %%
config = TurboConfig(rounds=4, epochs=1, refit_epochs=2) if SMOKE else None
result = probcomp.compress(
    model,
    data,
    budget=probcomp.Budget(params=0.1),
    seed=0,
    config=config,
    name="64-300-100-10",
    progress=False,
)
report = result.report
print(result.model)
print(f"non-zero parameters: {report.dense.nonzero:,} -> {report.compressed.nonzero:,}")
print(f"parameters stored:   {report.dense.params:,} -> {report.compressed.params:,}")
print(f"test accuracy:       {report.accuracy.dense} -> {report.accuracy.compressed}")
print(f"difference:          {report.accuracy.difference}")

# %% [markdown]
# Read the last lines with care. *Non-zero* is what the budget counts. *Stored* is what is left
# after dead neurons were cut out of the tensors; the printed model is an ordinary, smaller
# PyTorch module. Every accuracy has an interval, since the test set is finite, and the difference
# is **paired**: both networks saw the same pictures, so its interval is narrower than the two
# single ones would suggest.
#
# Here is what was kept of the first layer, beside the largest weights of the dense network, as
# many of them. Rows are hidden neurons (dead ones have no pixels), columns are the pixels of the
# image.

# %%
from probcomp.evaluation import compare_with_magnitude, magnitude_mask

name = "fc1.weight"
ours = result.masks[name]
dense_weight = dict(model.named_parameters())[name].detach()
figure, axes = plt.subplots(1, 2, figsize=(8, 7))
for axis, mask, title in zip(
    axes, (ours, magnitude_mask(dense_weight, ours)), ("posterior", "magnitude")
):
    axis.imshow(mask, cmap="Greys", aspect="auto", interpolation="nearest")
    axis.set(title=f"{title}: {int(mask.sum()):,} weights", xlabel="pixel", ylabel="neuron")
show("4-masks")
figures = compare_with_magnitude(name, ours, dense_weight)
for label, one in (("posterior", figures.ours), ("magnitude", figures.magnitude)):
    print(f"{label:>9}: {one.clusters} clusters, {one.singletons} of them single weights")

# %% [markdown]
# ## 5. Do the probabilities mean something?
#
# A probability of being needed should predict what happens when the weight is taken away. Sort
# all weights of the network, before the final decision, into bins of their inclusion probability,
# zero a random sample of each bin, and measure how much the loss rises.

# %%
posterior = result.posterior
before = LeNet300100(inputs=64)
before.load_state_dict(model.state_dict())
with torch.no_grad():
    for key, weight in posterior.weights.items():
        before.get_parameter(key).copy_(weight.mean * (weight.probability > 1e-6))
inputs, targets = data.test


def loss_of(network: nn.Module) -> float:
    with torch.no_grad():
        return nn.functional.cross_entropy(network(inputs), targets).item()


base = loss_of(before)
edges = [0.0, 0.01, 0.1, 0.5, 0.9, 1.0]
rises, counts = [], []
for low, high in itertools.pairwise(edges):
    draws = []
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        touched = LeNet300100(inputs=64)
        touched.load_state_dict(before.state_dict())
        removed = 0
        with torch.no_grad():
            for key, weight in posterior.weights.items():
                p = weight.probability
                inside = (p >= low) & (p < high if high < 1 else p <= high)
                chosen = inside & (torch.rand(p.shape, generator=generator) < 0.3)
                touched.get_parameter(key)[chosen] = 0
                removed += int(chosen.sum())
        draws.append((loss_of(touched) - base) / max(removed, 1))
    rises.append(sum(draws) / len(draws))
    counts.append(removed)
labels = [f"{low:g}–{high:g}" for low, high in itertools.pairwise(edges)]
figure, axis = plt.subplots(figsize=(6, 3.4))
axis.bar(labels, [1000 * rise for rise in rises], color="#0072B2")
axis.set(
    xlabel="inclusion probability",
    ylabel="rise of the loss for each weight\nremoved (1/1000 nat)",
    title="Weights that are called needed are the ones that hurt",
)
show("5-ablation")
for label, rise, count in zip(labels, rises, counts):
    print(f"p in {label:>9}: {count:6d} weights removed, {1000 * rise:+.4f} millinats each")

# %% [markdown]
# ## 6. Reading the report
#
# `result.save(directory)` writes everything: `report.html` (open it in a browser), `report.json`
# (the same numbers for machines), the posterior, and the model, which `probcomp.load` reads back.

# %%
result.save(OUT / "compressed")
again = probcomp.load(OUT / "compressed" / "model")
with torch.no_grad():
    assert torch.equal(again(inputs), result.model.eval()(inputs))
print(sorted(path.name for path in (OUT / "compressed").iterdir()))

# %% [markdown]
# That model is 32-bit numbers in tensors. To send it somewhere, or to know how many *bits* it is
# worth, write it as one coded file: each tensor gets a codebook of a few values, as coarse as the
# training data bear, and an arithmetic code stores the masks and the indices. `probcomp.load`
# reads the file back bit for bit.

# %%
size = result.encode(OUT / "digits.pcn")
back = probcomp.load(OUT / "digits.pcn").eval()
with torch.no_grad():
    right = (back(inputs).argmax(1) == targets).float().mean()
print(f"dense: {report.dense.bytes:,} bytes; coded file: {size.bytes:,}; accuracy {right:.1%}")
names = [tensor.name for tensor in size.tensors] + ["architecture"]
figure, axis = plt.subplots(figsize=(6, 3.4))
left = [0.0] * len(names)
for part, color in (("mask", "#0072B2"), ("values", "#E69F00"), ("codebook", "#009E73")):
    taken = [tensor.bits[part] / 8 for tensor in size.tensors] + [0.0]
    axis.barh(names, taken, left=left, color=color, label=part)
    left = [a + b for a, b in zip(left, taken)]
axis.barh(names[-1:], [size.bits["header"] / 8], color="0.6", label="shapes and checksums")
axis.invert_yaxis()
axis.set(xlabel="bytes", title="Where the bytes of the file are")
axis.legend(frameon=False)
show("6-file")

# %% [markdown]
# The posterior is also ArviZ data, for its tools and yours:

# %%
idata = posterior.to_arviz(draws=50, chains=2)
print(idata["posterior"]["support/fc3.weight"].dims)

# %% [markdown]
# Last, the check against the formula we began with: posterior log-odds are $\psi + l$, so the
# inclusion probability is their logistic function, and the expected number of needed weights is
# the sum of the probabilities. Here the budget allows more than that, and the likeliest of the
# rest fill it; a stricter budget would have a price above zero instead.

# %%
for key, weight in posterior.weights.items():
    assert torch.allclose(torch.sigmoid(weight.log_odds), weight.probability, atol=1e-6), key
expected = posterior.expected_kept()
kept = sum(int(mask.sum()) for key, mask in result.masks.items() if key in posterior.weights)
print(f"needed by expectation: {expected:,.0f} weights; kept: {kept:,}")
if not SMOKE:
    assert report.compressed.nonzero <= 0.1 * report.dense.params
    assert rises[-1] > 3 * max(rises[0], 0), "needed weights should hurt more than unneeded ones"
