# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Compress a trained network without training it
#
# The network is given, the training data are gone, and there are a few minutes. What can be said
# about a unit? It is read by a matrix $W$, and the error of a changed matrix $W'$ on inputs $x_t$
# is a quadratic that one pass over a few samples determines completely:
#
# $$ -\ln p(D \mid W') = \tfrac12 \operatorname{tr}\bigl(G\,(W'-W)\,A\,(W'-W)^\top\bigr), \qquad
#    A = \sum_t x_t x_t^\top = X^\top X . $$
#
# $A$ says which inputs can stand in for each other, $G$ which outputs matter. This page looks at
# $A$, finds Optimal Brain Surgeon in it as a limit, shows why scores of one unit at a time go
# wrong, and ends with a price, a temperature, and a smaller network.

# %%
import os

import matplotlib.pyplot as plt
import torch

import probcomp
from probcomp.allocation.curves import allocate
from probcomp.data import Batches, load_digits
from probcomp.evidence import collect, readouts
from probcomp.evidence.fisher import Categorical
from probcomp.evidence.obs import saliency
from probcomp.inference.quadratic import GroupFactor, Quadratic, column_evidence, refit
from probcomp.models import LeNet300100
from probcomp.models.train import train
from probcomp.recipes.post_posterior import believe
from probcomp.recipes.post_training import PostConfig
from probcomp.recipes.post_units import factors, judge
from probcomp.structure import trace

SMOKE = os.environ.get("SMOKE") == "1"  # fewer epochs, to see only that everything runs
EPOCHS = 2 if SMOKE else 20
data = load_digits(0)
torch.manual_seed(0)
network = LeNet300100(64, hidden=(64, 32))
train(network, Batches(data.train, 64, 0), epochs=EPOCHS, seed=0)
network.eval()
x, y = data.train[0][:512], data.train[1][:512]

# %% [markdown]
# ## One pass: $X^\top X$
#
# `trace` finds which units can go, `readouts` the matrices that read them, and `collect` sums up
# what these see. Nothing else of the data is needed.

# %%
structure = trace(network, (x[:2],))
reads = {r.axis: r for r in readouts(network, structure)}
for read in reads.values():
    print(f"{read.axis:12s} is read by {read.parameter}, {len(read.columns)} units")
likelihood, dice = Categorical(), torch.Generator().manual_seed(0)
seen = collect(
    network,
    {r.parameter: r.matrix for r in reads.values()},
    [(x, y)],
    lambda model, batch: model(batch[0]),
    probe=lambda outputs, batch: [likelihood.probe(outputs, batch[1], dice)],
)
axis, read = next(iter(reads.items()))
statistics = seen[read.parameter]
gram = statistics.gram
scale = gram.diagonal().clamp_min(1e-9).rsqrt()
similar = gram * scale[:, None] * scale
order = similar[int(gram.diagonal().argmax())].argsort(descending=True)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
axes[0].imshow(similar[order][:, order], cmap="magma", vmin=0, vmax=1)
axes[0].set(title="how alike units fire", xlabel="unit", ylabel="unit")
spectrum = torch.linalg.eigvalsh(gram).flip(0).clamp_min(1e-6)
axes[1].semilogy(spectrum / spectrum[0])
axes[1].set(title="eigenvalues of $X^T X$, over the largest", xlabel="number", ylim=(1e-6, 2))
figure.tight_layout()

# %% [markdown]
# The eigenvalues fall by orders of magnitude: many units say nearly what others say already.
#
# ## Optimal Brain Surgeon is a limit
#
# Give each weight a slab $N(0, 1/\alpha)$. The Bayes factor of a unit against its absence is
#
# $$ l_g = \tfrac12 \sum_r m_{rg}^\top C_{gg}^{-1} m_{rg}
#          + \tfrac{d_o}{2} \ln\det(\alpha C_{gg}) . $$
#
# For a flat slab, $\alpha \to 0$, its first term is the saliency of Optimal Brain Surgeon to the
# last digit; the second is Occam's price, which the surgeon does not know.

# %%
weight = network.get_parameter(read.parameter).detach().double()
quadratic = Quadratic(weight, gram, jitter=1e-2)
alpha = 1e-8
surgeon = saliency(quadratic, read.columns)
bayes = column_evidence(quadratic, read.columns, alpha)
covariance = torch.linalg.inv(quadratic.precision + alpha * torch.eye(len(gram)))
occam = 0.5 * len(weight) * (alpha * covariance.diagonal()).log()
print(f"largest difference from the surgeon: {(bayes - occam - surgeon).abs().max():.1e} nats")
assert torch.allclose(bayes - occam, surgeon, rtol=1e-4)

# %% [markdown]
# ## Why one unit at a time goes wrong
#
# Take a unit that matters and make a twin of it: both halves of its weight, the same input. Each
# twin alone can go at no loss, because the other takes over. A score of one unit at a time
# therefore ranks both at the bottom, and removes both.

# %%
best = int(surgeon.argmax())
index = torch.arange(len(gram))
twins = torch.cat([index, torch.tensor([best])])
doubled_gram = gram[twins][:, twins] + 1e-6 * gram.diagonal().mean() * torch.eye(len(twins))
doubled = weight[:, twins].clone()
doubled[:, best] /= 2
doubled[:, -1] /= 2
twin = Quadratic(doubled, doubled_gram, jitter=1e-4)
columns = torch.arange(len(twins))[:, None]
alone = saliency(twin, columns)
low = torch.argsort(alone)
print(f"ranks of the twins among {len(twins)}, 0 is the first to go: "
      f"{int((low == best).nonzero())} and {int((low == len(index)).nonzero())}")  # fmt: skip


def loss_without(gone):
    """Loss when units go and the others make up for them, nats."""
    keep = torch.ones(len(twins), dtype=torch.bool)
    keep[list(gone)] = False
    return twin.loss_increase(refit(twin, keep) - twin.weight)


one, both = loss_without([best]), loss_without([best, len(index)])
print(f"one twin gone: {one:.2f} nats; both gone: {both:.0f} nats")

# %% [markdown]
# The posterior asks the question in the right form: what does a unit add *given what the others
# are believed to do*? Around a decision that keeps one of the twins, its probability is near one,
# and the other's is near zero; neither would be so without the other.

# %%
keep = torch.ones(len(twins), dtype=torch.bool)
keep[-1] = False
belief = believe([GroupFactor(twin, columns)], keep, price=0.5 * both, iterations=1)
for name, unit in (("the twin that stays", best), ("the twin that went", len(index))):
    print(f"{name}: evidence {belief.evidence[unit]:8.2f} nats, "
          f"probability {belief.probability[unit]:.3f}")  # fmt: skip
assert belief.probability[best] > 0.7 > 0.3 > belief.probability[-1]

# %% [markdown]
# ## One price for all layers
#
# Removing units one by one, each judged by what the rest can do, gives a curve of loss for each
# layer. A budget is met by one price per parameter: every layer gives up units as long as the
# next one costs less than the price. The layers need not lose the same share.

# %%
judged = {
    name: judge(
        structure.axis(name),
        [r],
        factors(network, [r], seen, damping=None, centred=lambda parameter: True),
        units=len(x),
    )
    for name, r in reads.items()
}
sizes = {name: j.axis.size for name, j in judged.items()}
dense = structure.cost().params


def cost(left):
    masks = {name: torch.arange(sizes[name]) < count for name, count in left.items()}
    return structure.cost(masks).params


shares = (0.9, 0.7, 0.5, 0.3, 0.2)
plans = [allocate({n: j.loss for n, j in judged.items()}, sizes, cost, s * dense) for s in shares]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
for name, j in judged.items():
    axes[0].semilogy(j.loss.clamp_min(1e-6), label=name)
    axes[1].plot(shares, [1 - p.removed[name] / sizes[name] for p in plans], "o-", label=name)
axes[0].set(title="predicted loss", xlabel="units gone", ylabel="nats a sample")
axes[1].set(title="one price, different shares", xlabel="parameters left", ylabel="units kept")
axes[1].legend()
figure.tight_layout()
for share, plan in zip(shares, plans):
    print(f"{share:.0%} left: price {plan.price:.2e} nats a parameter")

# %% [markdown]
# ## A temperature
#
# The prediction is a quadratic, and takes samples as independent. How much is a predicted nat
# worth? Remove random units, measure, and compare: the ratio is the temperature. The network is
# asked how far its outputs move (a divergence), so that no label noise comes in.

# %%
held = data.test[0]
with torch.no_grad():
    reference = network(held)
predicted, measured = [], []
metric, dice = statistics.metric, torch.Generator().manual_seed(1)
centred = gram - torch.outer(statistics.sum, statistics.sum) / statistics.count
bias = network.get_parameter(read.parameter.replace("weight", "bias"))
parameter = network.get_parameter(read.parameter)
for count in [4, 8, 12, 16, 20, 24] * 3:
    gone = torch.randperm(len(gram), generator=dice)[:count]
    stays = torch.ones(len(gram), dtype=torch.bool)
    stays[gone] = False
    new = refit(Quadratic(weight, centred, jitter=1e-2), stays)
    change = new - weight
    predicted.append(0.5 * float(((metric @ change @ centred) * change).sum()) / len(x))
    old, old_bias = parameter.detach().clone(), bias.detach().clone()
    with torch.no_grad():
        parameter.copy_(new)
        bias.add_((-change @ (statistics.sum / statistics.count)).float())
        measured.append(float(likelihood.divergence(network(held), reference, data.test[1])))
        parameter.copy_(old)
        bias.copy_(old_bias)
fitted, fresh = slice(0, None, 2), slice(1, None, 2)
ratios = torch.tensor(predicted).clamp_min(1e-9) / torch.tensor(measured).clamp_min(1e-9)
temperature = float(ratios[fitted].log().mean().exp())
again = float(ratios[fresh].log().mean().exp()) / temperature
print(f"temperature {temperature:.2f}; predicted over measured after it, on others: {again:.2f}")
figure, axis_ = plt.subplots(figsize=(4.2, 3.8))
axis_.loglog(predicted, measured, "o", alpha=0.4, label="as predicted")
axis_.loglog([p / temperature for p in predicted], measured, "o", label="tempered")
ends = [min(measured), max(measured)]
axis_.loglog(ends, ends, "k--", lw=1)
axis_.set(xlabel="predicted, nats a sample", ylabel="measured")
axis_.legend()
figure.tight_layout()

# %% [markdown]
# ## All of it, in one call
#
# `PostConfig` chooses this road although the data have targets; data without targets take it by
# themselves. Read-outs are refitted in order, each on what the pruned layers before it really give,
# and each also makes up for what earlier ones left undone.

# %%
result = probcomp.compress(
    network, data, budget="prunable=0.4", config=PostConfig(), progress=False
)
report = result.report
print(f"accuracy {report.accuracy.dense.value:.3f} -> {report.accuracy.compressed.value:.3f} with "
      f"{report.compressed.params:,} of {report.dense.params:,} parameters")  # fmt: skip
figure, axes = plt.subplots(1, len(result.posterior.units), figsize=(9, 2.8), squeeze=False)
for axis_, (name, unit) in zip(axes[0], result.posterior.units.items()):
    ranks = unit.probability.argsort(descending=True)
    colours = ["C0" if kept else "C3" for kept in result.keep[name][ranks].tolist()]
    axis_.bar(range(len(ranks)), unit.probability[ranks], color=colours, width=1.0)
    axis_.set(title=name, xlabel="unit, by probability", ylim=(0, 1))
axes[0, 0].set_ylabel("probability that it is needed")
figure.tight_layout()

# %% [markdown]
# Blue units stayed, red ones went. Probabilities between the extremes are those that the
# calibration samples cannot settle at this price; more samples would push them apart.
