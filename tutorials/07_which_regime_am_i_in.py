# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Which regime am I in? Knowing before pruning which way to turn the knob
#
# Train a network longer, then prune it. Does the longer training help or hurt? Both happen, and
# which one depends on how much is pruned. Zhou, Yang, Chang and Mahoney (2023) describe it as a
# phase diagram over a **load** (the density that is kept) and a **temperature** (anything that adds
# noise to training: a larger learning rate, a smaller batch, fewer epochs). With two coordinates
# $x$ (load) and $\tau$ (temperature), measured from the point where three regimes meet
# ($\Delta x = x - x_0$, $\Delta\tau = \tau - \tau_0$), this page uses two surfaces:
#
# $$ C = \log\big(e^{s_x \Delta x} + e^{s_\tau \Delta\tau}\big), \qquad
#    D = \Delta x - \frac{\kappa}{b} \log\frac{1 + e^{b \Delta\tau}}{2}, \quad b = 1, $$
#
# $$ P(\text{I}) = 1 - \sigma(C), \qquad P(\text{II-B}) = \sigma(C)\,\sigma(s_S D), \qquad
#    P(\text{II-A}) = \sigma(C)\,(1 - \sigma(s_S D)). $$
#
# Networks are **connected** ($\sigma(C)$) if they are dense enough or hot enough, and **alike**
# ($\sigma(s_S D)$) if dense enough for their heat. Where the three meet each has probability 1/3.
# Regime I is cold and sparse: retraining the same pruned network twice ends in two valleys with a
# barrier between, and heat helps. II-A is connected but unlike, II-B connected and alike: there
# cold is better. Behaviour may jump where a regime begins, or change gradually from there; the
# model has a term for each.
#
# We first meet systems whose boundaries are known exactly, then a real network. Under two minutes
# on one core.

# %%
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from probcomp.regime import RegimeModel, advise, read_runs
from probcomp.regime.plots import plot_actions, plot_map, plot_phase_diagram, predict_maps
from probcomp.regime.teacher import TeacherStudent
from probcomp.regime.toys import pruned_hopfield_capacity, sk_bias_boundary, sk_table

SMOKE = os.environ.get("SMOKE") == "1"  # fewer draws, to see only that everything runs
OUT = Path(os.environ.get("TUTORIAL_OUT", "tutorial-07"))
OUT.mkdir(exist_ok=True)
DRAWS = {"warmup": 120, "samples": 120} if SMOKE else {"warmup": 400, "samples": 400}


def show(name: str, figure=None) -> None:
    """Keep a figure as a file, and show it where there is a screen."""
    (figure or plt.gcf()).savefig(OUT / f"{name}.png", dpi=110, bbox_inches="tight")
    plt.show()
    plt.close("all")


# %% [markdown]
# ## 1. A direction that flips, exactly
#
# A linear student learns a sparse teacher, and is then pruned by magnitude to density $c$. More
# training scales its weights up, $s = 1 - e^{-t}$. The risk is a parabola in $s$, so the best
# time is known in closed form: $s^*(c) = A(c) / B(c)$. Whether to go on training at $s = 0.6$
# depends on $c$ alone.

# %%
system = TeacherStudent()
densities = np.geomspace(0.02, 1, 40)
best = np.array([system.best_scale(c) for c in densities])
figure, axis = plt.subplots(figsize=(6, 3.2))
axis.semilogx(densities, best, color="#0072B2")
axis.axhline(0.6, color="0.5", lw=0.9)
axis.fill_between(densities, 0.6, best, where=best > 0.6, color="#0072B2", alpha=0.2)
axis.fill_between(densities, 0.6, best, where=best < 0.6, color="#D55E00", alpha=0.2)
axis.text(0.025, 0.62, "train longer", color="#0072B2")
axis.text(0.3, 0.56, "stop earlier", color="#D55E00")
axis.set(xlabel="density kept", ylabel="best scale $s^*$", title="The same knob, two directions")
show("1-direction-flips")
for density, expected in ((0.02, 0.795), (0.1, 0.657), (0.4, 0.480)):
    assert abs(system.best_scale(density) - expected) < 1e-3

# %% [markdown]
# Pruning also has a sharp edge of its own. A Hopfield network stores patterns in its couplings; cut
# all but the largest, and it forgets at a load that the theory of Sompolinsky (1986) gives. Cutting
# by size costs far less than cutting at random:

# %%
kept = np.array([1, 0.8, 0.5, 0.3, 0.2, 0.1, 0.05, 0.01])
figure, axis = plt.subplots(figsize=(6, 3.2))
for rule, colour in (("magnitude", "#0072B2"), ("random", "#D55E00")):
    capacity = [pruned_hopfield_capacity(c, rule) for c in kept]
    axis.loglog(kept, capacity, "o-", color=colour, label=rule)
axis.set(xlabel="share of couplings kept", ylabel="patterns per neuron at the edge")
axis.legend(frameon=False)
show("2-hopfield")
assert abs(pruned_hopfield_capacity(0.1, "magnitude") - 0.0793) < 5e-4

# %% [markdown]
# ## 2. Three regimes, exactly
#
# The Sherrington-Kirkpatrick magnet with a bias has the topology of the diagram above: a spin glass
# (many valleys: I), a paramagnet (one valley, unlike samples: II-A) and a ferromagnet (II-B) that
# meet in the point (1, 1). We give the model noisy observables on a grid and hide the boundaries.

# %%
values = np.geomspace(0.5, 2.2, 5)
columns, truth = sk_table(values, values, noise=0.01)
magnet = RegimeModel.fit(columns, **DRAWS)
print(magnet.convergence)
diagram = magnet.phase_diagram(size=24)
figure = plot_phase_diagram(diagram, magnet.table)
axis = figure.axes[0]
temperatures = np.geomspace(0.5, 2.2, 30)
axis.plot([sk_bias_boundary(t) for t in temperatures], temperatures, ":", color="white", lw=2)
show("3-spin-glass", figure)
print("three regimes meet at bias", diagram.triple_load.round(2), "temperature", end=" ")
print(diagram.triple_value.round(2), "(5, 50, 95 %); exact: 1 and 1")

# %% [markdown]
# White dots: where the exact system becomes magnetised. Grey bands: 90 % of the posterior. The
# magnetisation grows from zero, so near its boundary there is next to nothing to see, and the
# boundary is found from how it grows further in. The table states the noise of its three
# observables (columns `..._se`): without that, the logarithm of a barrier that is noise alone would
# be taken for a barrier that varies. From 25 cells the meeting point is put at too large a bias,
# and the bars are too short to admit it. From 121 cells it is found within 20 % on both axes, and
# the drawn boundary between II-A and II-B has its slope within 10 % (tests of the package do that).
#
# ## 3. A real network
#
# A batch-norm network 64-64-64-64-10 on handwritten digits, trained for up to 60 epochs with the
# learning rate falling after 30 and 45, stopped early (the knob: fewer epochs are hotter), pruned
# by magnitude in each layer, and retrained at rate 0.5. The table holds every combination of seven
# stops, six densities and 32 dense seeds; each row is the mean of two retrained networks and the
# barrier between them. `python benchmarks/regime.py sweep` makes it. A user runs few of these:
# our pilots have the first four dense seeds. The advice is judged on a second table, made by
# `regime.py reference`: the error of every cell with many other dense seeds, and retraining seeds
# of their own.

# %%
here = Path(__file__).parents[1] if "__file__" in globals() else Path()
results = here / "benchmarks" / "results"
path = results / "regime_digits_runs.csv"
runs = read_runs(path)
ours = np.genfromtxt(path, delimiter=",", names=True)["dense_seed"] < 4
epochs, loads = np.unique(runs.settings[:, 0]), np.unique(runs.load)
judge = np.genfromtxt(results / "regime_digits_reference.csv", delimiter=",", names=True)


def cell(e: float, d: float) -> np.ndarray:
    """Test errors of the seeds that judge, in points."""
    return 100 * judge["test_error"][(judge["epochs"] == e) & (judge["density"] == d)]


errors = np.array([[cell(e, d).mean() for d in loads] for e in epochs])
print("test error, %, epochs down, density across", loads)
for e, row in zip(epochs, errors):
    print(f"{e:4.0f} " + " ".join(f"{v:6.1f}" for v in row))

sparse = [cell(e, loads[0]) for e in epochs]
seeds = len(sparse[0])
unsure = np.mean([v.std(ddof=1) for v in sparse]) / seeds**0.5
half, most = np.quantile(sparse[-1], [0.5, 0.95])
print(f"density {loads[0]:g}: {seeds} seeds leave a standard error of {unsure:.1f} points a cell;")
print(f"at the last stop half of them lie below {half:.0f} %, one in twenty above {most:.0f} %")

# %% [markdown]
# At high densities long training costs a little, at low ones short training costs much; at the
# lowest the later stops can hardly be told apart even by all these seeds. Suppose we had run nine
# pilots only, one in each part of the plane, and ask what to do with a network that has been
# trained to the end.

# %%
rng = np.random.default_rng(0)
thirds = [np.array_split(np.arange(len(v)), 3) for v in (epochs, loads)]
pilots = [(epochs[rng.choice(i)], loads[rng.choice(j)]) for i in thirds[0] for j in thirds[1]]
pilots[2] = (epochs[0], loads[-1])  # the advice must not leave the runs: keep the corners
pilots[0], pilots[6], pilots[8] = (epochs[0], loads[0]), (epochs[-1], loads[0]), (60, loads[-1])
chosen = ours & [(e, d) in pilots for e, d in zip(runs.settings[:, 0], runs.load)]
model = RegimeModel.fit(runs.take(chosen), **DRAWS)
print(f"{len(pilots)} pilots, {chosen.sum()} rows; {model.convergence}")
said = advise(model, density=loads[0], at={"epochs": 60}, levels=list(epochs))
print(said.action, {name: round(p, 2) for name, p in said.probability.items()})
print(f"best {said.best:g} epochs, 90 % {said.best_interval}; gain {said.gain_points:.1f} points")
show("4-digits-diagram", plot_phase_diagram(model.phase_diagram(size=24), model.table))
show("5-digits-actions", plot_actions(said))
maps = predict_maps(model, size=18)
show("6-digits-connectivity", plot_map(maps, "connectivity"))
show("7-digits-similarity", plot_map(maps, "similarity"))

# %% [markdown]
# `advise` answers with probabilities, and with the pilot it would run next. Where none of raise,
# lower and keep reaches 80 % it says *undecided*: so it should, where seeds differ by more than
# the settings do.
#
# ## 4. Was the advice right?
#
# The **regret** is the error at the advised stop minus that of the best stop in the column, by
# seeds that no pilot has. Even with many of them the least of seven means is a little too low, so
# that the truly best stop, too, would be charged something. `python benchmarks/regime.py digits`
# takes that out, and averages over several sets of pilots, which differ much. Its record says:

# %%
record = json.loads((results / "regime_digits.json").read_text())["result"]
for name, what in (
    ("nine", "nine pilots, for all densities at once"),
    ("campaign", "nine pilots that `probcomp advise --task` runs for one density"),
    ("grid_ten", "every cell with ten seeds"),
    ("longest_training", "training to the end"),
    ("random", "any stop at random"),
):
    found = record["regret"][name]
    low, high = found["regret_90"]
    print(f"{what}: {found['regret_points']:.2f} points (90 %: {low:.2f} to {high:.2f}),", end=" ")
    print(f"mean of {record['designs'][name]} sets")

# %% [markdown]
# And the one set of pilots above, counted plainly:

# %%
regret, longest = [], []
for k, load in enumerate(loads):
    predicted = model.predict({"epochs": epochs}, load)
    pick = int(np.argmin(predicted.error.mean(0)))
    regret.append(errors[pick, k] - errors[:, k].min())
    longest.append(errors[-1, k] - errors[:, k].min())
    print(
        f"density {load:5.3f}: advised {epochs[pick]:3.0f} epochs, regret {regret[-1]:.2f}; "
        f"longest training {longest[-1]:.2f} points"
    )
print(f"mean regret {np.mean(regret):.2f} points; longest training {np.mean(longest):.2f}")

# %% [markdown]
# What this shows: how a sweep becomes advice, and how far four seeds a cell carry. What it cannot
# show: that the regimes lie like this on large networks and images. The data are small, and one set
# of nine pilots proves little. At the lowest density a retraining now and then collapses, which
# few seeds cannot tell from a bad stop: there it is right to be undecided.
#
# Last, the check against the formulas we began with: the probabilities of the fitted diagram are
# $\sigma(C)$ and $\sigma(s_S D)$ at its parameters.

# %%
theta = {name: value[0] for name, value in model.parameters.items()}
x, t = np.array([-1.0, 0.2, 1.3]), np.array([0.8, -0.5, -1.2])
dx, dt = x - theta["x0"], t - theta["t0"]
connect = np.log(np.exp(theta["s_x"] * dx) + np.exp(theta["s_t"] * dt))
deep = dx - theta["kappa"] * np.log((1 + np.exp(dt)) / 2)
alike = theta["s_S"] * deep
sigma_c, sigma_s = 1 / (1 + np.exp(-connect)), 1 / (1 + np.exp(-alike))
from probcomp.regime.model import regimes

found = np.asarray(regimes(theta, x, t))
expected = np.stack([1 - sigma_c, sigma_c * (1 - sigma_s), sigma_c * sigma_s], 1)
assert np.allclose(found, expected, atol=1e-6)
if not SMOKE:
    assert np.mean(regret) < np.mean(longest), "advice should beat training to the end"
