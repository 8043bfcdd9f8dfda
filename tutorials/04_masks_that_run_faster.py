# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Masks that run faster
#
# A posterior says which weights may go. A zero in a matrix saves nothing by itself: a dense product
# multiplies by it all the same. A mask becomes speed only when what it removes is neither stored
# nor read. How far that pays is a race of two times,
#
# $$ t_\text{sparse}(d) \approx \frac{d\,t_\text{dense}}{e} \;<\; t_\text{dense}
#    \quad\Longleftrightarrow\quad d < d^\star = e , $$
#
# where $d$ is the **stored density** and $e$ the **efficiency**: the rate at which the sparse
# product does its remaining work, relative to the dense one. The break-even density *is* the
# efficiency, and the shape of the mask decides both. This page packs one weight in several shapes,
# measures $e$ on your machine, and checks the formula at the end.

# %%
import os
import statistics
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import gelu, linear

from probcomp.errors import InputError
from probcomp.kernels import compact_mlp, cpp, masked_linear, pack
from probcomp.kernels.packing import best_block
from probcomp.kernels.tuning import time_backends

SMOKE = os.environ.get("SMOKE") == "1"  # smaller sizes, to see only that everything runs
OUT = Path(os.environ.get("TUTORIAL_OUT", "tutorial-04"))
OUT.mkdir(exist_ok=True)
N, K, M = (256, 256, 16) if SMOKE else (3072, 768, 16)
ROUNDS = 3 if SMOKE else 15
rng = torch.Generator().manual_seed(0)
weight = torch.randn(N, K, generator=rng) / K**0.5
x = torch.randn(M, K, generator=rng)


def scattered(block, density):
    """Random live blocks, the same number in each block row."""
    rows, columns = N // block[0], K // block[1]
    score = torch.rand(rows, columns, generator=rng)
    live = score.argsort(1).argsort(1) < max(1, round(density * columns))
    return live.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)


# %% [markdown]
# ## Four masks with the same number of zeros
#
# Each of these masks removes three quarters of the weights. `pack` looks at the mask and stores
# what it must: dead rows and columns are sliced away (*compact*), live blocks are kept as blocks,
# and where neither helps the mask is folded into a dense weight, since that is the fastest then.
#
# `density` is what is stored relative to dense; `fill` is the share of it that lives.

# %%
neurons = torch.rand(N, 1, generator=rng).argsort(0) < N // 4
masks = {
    "neurons": neurons.expand(N, K).contiguous(),
    "64x32 blocks": scattered((64, 32), 0.25),
    "16x16 blocks": scattered((16, 16), 0.25),
    "single weights": torch.rand(N, K, generator=rng) < 0.25,
}
for name, mask in masks.items():
    packed = pack(weight, mask)
    print(f"{name:<15} live {mask.float().mean():.2f}  ->  {packed}")

# %% [markdown]
# Single weights at 75 % sparsity stay **dense**: almost every block of any shape holds a live
# weight, so there is nothing to skip.
#
# ```{admonition} Why 16x16 blocks and 2:4 disappoint
# A product of an $M \times BK$ tile of inputs with a $BN \times BK$ block of weights does
# $2 \cdot BM \cdot BN \cdot BK$ operations on $(BM + BN) \cdot BK$ loaded numbers: the work for
# each number grows with the **height** BN of a block, not with its width. 16 rows give a quarter of
# the reuse of 128. And 2:4 stores 0.5625 of the bytes in 16 bits, so it is at most 1.78 times
# faster where memory is the limit; elsewhere it needs special hardware, and no CPU has that.
# ```
#
# That is why `pack` weighs a stored value by the height of its block, and why a prior over supports
# should live on a grid of **tall** blocks if speed is the goal.

# %%
for name, mask in masks.items():
    block, cost = best_block(mask)
    print(f"{name:<15} best block {block}, cost {cost:.2f} of dense")

# %% [markdown]
# ## Reading a plan
#
# `packed.plan` says which backend would multiply at each batch size and why; with `measure=True` it
# times every backend here and now, dense among them. The C++ kernel is compiled once, when you ask
# for it. Without a compiler everything below still runs, on the backends that are left.

# %%
try:
    print("C++ kernel:", cpp.build())
except InputError as error:
    print("no C++ kernel here:", error)

blocks = pack(weight, masks["64x32 blocks"], block=(64, 32), format="blocks")
print(blocks.plan(M=[1, 16, 128]))
print(blocks.plan(M=[M], measure=not SMOKE))

# %% [markdown]
# Where the plan says `dense`, the weight is folded out once and runs as the fastest dense product
# of the machine: MKL, oneDNN with reordered weights and the activation in its epilogue, or our
# own for few rows. What was decided for a batch size is kept, so a later call compares a few
# numbers and runs; that costs some three microseconds in a loop, and up to eight between large
# products, when Python's own work finds the caches full of weights.

# %% [markdown]
# ## Removing a neuron on both sides
#
# A neuron whose inputs are all dead still outputs a constant, $\operatorname{act}(b)$. It may go
# only if that constant is added to the next bias:
#
# $$ b_\text{next} \mathrel{+}=
#    W_\text{next}[:, \text{dead}]\;\operatorname{act}(b_\text{dead}) . $$
#
# `compact_mlp` does it, and what remains is an ordinary smaller MLP. Call it to run it: both layers
# and the activation are then one call of the C++ kernel where that is built, since for a small
# network the calls cost as much as the products.

# %%
up_bias = torch.randn(N, generator=rng)
down = torch.randn(K, N, generator=rng) / N**0.5
small = compact_mlp(
    weight,
    down,
    masks["neurons"],
    torch.ones(K, N, dtype=torch.bool),
    activation="gelu",
    up_bias=up_bias,
)
masked = linear(gelu(linear(x, weight * masks["neurons"], up_bias)), down)
compact = small(x)
without = linear(gelu(linear(x, small.up, small.up_bias)), small.down)
print(f"neurons: {N} -> {small.up.shape[0]}")
print(f"error with the folded bias {(compact - masked).abs().max():.1e}")
print(f"error without it           {(without - masked).abs().max():.1e}")
assert torch.allclose(compact, masked, atol=1e-4)

# %% [markdown]
# ## Checking the formula
#
# If time is proportional to what is stored, then time over density is one constant for a shape of
# block, and its ratio to the dense time is $1 / e$. We measure $e$ at two densities; the formula
# says that they agree, and that the sparse product wins below $d^\star = e$.

# %%
best = "cpp" if cpp.available() else "panels"
efficiency = {}
for density in (0.5, 0.25):
    packed = pack(weight, scattered((64, 32), density), block=(64, 32), format="blocks")
    times = time_backends(packed, M, rounds=ROUNDS)
    efficiency[density] = packed.density * times["dense"] / times[best]
    print(
        f"d={density}: dense {times['dense']:.0f} us, {best} {times[best]:.0f} us, "
        f"efficiency {efficiency[density]:.2f}"
    )

low, high = sorted(efficiency.values())
print(f"break-even density between {low:.2f} and {high:.2f}")
y = masked_linear(x, packed)
assert torch.allclose(y, x @ packed.dense().T, atol=1e-3)
# Timings of a busy machine scatter; the two efficiencies are the same quantity within a factor.
assert high / low < (10 if SMOKE else 2.5)

# %% [markdown]
# The whole race in one picture: time over the density for tall blocks, low blocks and removed
# neurons, with the dense time as a line. Where a curve meets the line is its break-even density;
# the dispatcher follows the lower of the two.

# %%
densities = (0.1, 0.5) if SMOKE else (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
curves: dict[str, list[float]] = {"64x32 blocks": [], "16x16 blocks": []}
dense_times = []
for density in densities:
    for name, block in (("64x32 blocks", (64, 32)), ("16x16 blocks", (16, 16))):
        packed = pack(weight, scattered(block, density), block=block, format="blocks")
        times = time_backends(packed, M, rounds=ROUNDS)
        curves[name].append(times[best])
        dense_times.append(times["dense"])
curves["removed neurons"] = []
for density in densities:
    kept = weight[: max(1, round(density * N))].contiguous()
    packed = pack(kept, torch.ones_like(kept, dtype=torch.bool))
    curves["removed neurons"].append(time_backends(packed, M, rounds=ROUNDS)["dense"])

figure, axis = plt.subplots(figsize=(6.4, 3.4))
for name, times in curves.items():
    axis.plot(densities, times, marker="o", label=name)
axis.axhline(statistics.median(dense_times), color="black", linestyle="--", label="dense")
axis.set(xlabel="stored density", ylabel="microseconds", xlim=(0, None), ylim=(0, None),
         title=f"{N}x{K}, {M} rows, {best}, {torch.get_num_threads()} thread(s)")  # fmt: skip
axis.legend()
plt.savefig(OUT / "masks_that_run_faster.png", dpi=110, bbox_inches="tight")
plt.show()
plt.close()

# %% [markdown]
# **To take away.** Remove whole neurons first: that is exact, needs no kernel, and wins everywhere.
# What remains should be blocks that are tall in the output dimension. Ask the plan before believing
# a sparsity: below the break-even density it is speed, above it the dispatcher runs dense.
