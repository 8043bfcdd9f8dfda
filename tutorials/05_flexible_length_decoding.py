# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Writing as long as it should: decoding a masked diffusion model
#
# A masked diffusion model fills a canvas of masks. Usually somebody must say how long the canvas
# is, which parts come first, and how many tokens to fill in per forward. Here each is inference.
#
# A model that was trained with EOS as filler tells where the text ends: its EOS marginal at
# position $i$ is a cumulative distribution,
# $$e_i = P(E \le i \mid \text{visible}), \qquad P(E = i) = e_i - e_{i-1}.$$

# %%
import torch

from probcomp.decoding import decode
from probcomp.decoding.blocks import structure_posterior
from probcomp.decoding.durations import Fixed, NegativeBinomial, log_duration
from probcomp.decoding.oracles import MarkovOracle

# %% [markdown]
# ## 1. On an oracle the claim is exact
# A Markov chain with an absorbing end, nothing visible: the differences of the EOS marginal must
# be the geometric law of its end.

# %%
oracle = MarkovOracle.random(6, hazard=0.1, seed=0)
blank = torch.full((1, 12), oracle.mask_id)
mass = oracle.marginals(blank)[0, :, oracle.eos_id]
end = mass.diff(prepend=torch.zeros(1, dtype=mass.dtype))
law = 0.1 * 0.9 ** torch.arange(12)
print("P(end) from marginals:", [round(float(v), 3) for v in end[:5]])
assert torch.allclose(end, law.to(end.dtype), atol=1e-10)

# %% [markdown]
# ## 2. A real model, without being told the length

# %%
output = decode(prompt=["+385+267", "{k=12;b=x", "?c"])
for text, tokens, forwards in zip(output.texts, output.num_new_tokens, output.nfe):
    print(f"{text:20} {tokens:3} tokens in {forwards} forwards")
assert output.texts[0].endswith("|652")
assert 385 + 267 == 652

# %% [markdown]
# `expected_errors` is the ledger: the summed chance that a committed token is wrong. A forward
# may spend only so much of it, which is what decides how many tokens go at once.

# %%
careful = decode(prompt="+385+267", error_step=1e-4)
bold = decode(prompt="+385+267", error_step=1.0)
print("forwards:", careful.nfe[0], "careful,", bold.nfe[0], "bold")
assert careful.nfe[0] >= bold.nfe[0]

# %% [markdown]
# ## 3. Published decoders are settings of the same loop

# %%
for preset in ("serial", "fixed", "eb", "wino"):
    found = decode(prompt="+385+267", preset=preset, max_new_tokens=24)
    print(f"{preset:8} {found.texts[0]:16} {found.nfe[0]} forwards")

# %% [markdown]
# ## 4. Gaps, draws and a picture
# `_` in the prompt is a gap. A temperature draws; the seed decides every draw.

# %%
print(decode(prompt='{k=12;b=x{"k":__,"b":"_"}').texts[0])
print(decode(prompt="?c", temperature=1.0, num_return_sequences=3, seed=1).texts)

# %%
from probcomp.decoding.plot import plot_generation

figure = plot_generation(decode(prompt="{k=12;b=x", error_step=0.05, history=True))

# %% [markdown]
# ## 5. What the model's numbers are worth
# The decoder reads probabilities, and a network's are not quite right. `probcomp decode MODEL
# --calibrate FILE` fits what they are worth on dev answers and writes the result beside the model:
# the length prior, how often a confident token is wrong, how strongly tokens depend on each other
# at each distance, how noisy its marginals are and how much of the prior to mix into the end.
# Half of the answers is fitted on, a quarter chooses how bold to be, and a quarter checks: a fit
# that does not beat the length prior there is refused. The embedded model comes with its own.

# %%
from probcomp.decoding import load_calibration
from probcomp.decoding.committing import expected_error
from probcomp.decoding.small.load import FOLDER

fitted = load_calibration(FOLDER)
report = fitted.report
print(f"end, nats: model {report['end_log_score']}, prior alone {report['prior_log_score']}")
assert report["end_log_score"] > report["prior_log_score"]
says = torch.tensor([0.5, 0.8, 0.95, 0.999])
wrong = expected_error(says, 1.0, fitted.options["error_curve"])
for confidence, error in zip(says, wrong):
    print(f"says {float(confidence):.3f}: wrong {float(error):.4f} of the time")
sure = expected_error(says, 1.0, fitted.options["error_curve_sure"])
print(f"and in a row that is sure as a whole: {float(sure[2]):.5f} where it says 0.950")
assert float(sure[2]) < float(wrong[2])
print("coupling by distance:", [round(v, 2) for v in fitted.options["coupling_profile"][:6]])

# %% [markdown]
# In the records above the next letter is three characters on, and so is the peak of the profile:
# a letter tells more about the next letter than about the digit beside it. When drawing, the end
# is drawn first, and tokens go together only as far as their summed coupling stays within `gamma`
# nats: those that tell most about the rest first, so that what is left falls apart. A token that is
# seen takes over the ties that go through it: its two sides have nothing more to tell each other,
# and go together. Small chances that dev answers show to be noise are not drawn from.

# %%
draws = decode(prompt=["?c"] * 8, temperature=1.0, seed=2, history=True)
longest = max(range(8), key=lambda i: draws.num_new_tokens[i])
print("together in each forward of", draws.texts[longest])
for step in draws.history:
    at = (step.rows == longest).nonzero()[:, 0]
    if len(at):
        places = step.commit[int(at[0])].nonzero()[:, 0].tolist()
        print("  ", " ".join(draws.texts[longest][i] for i in places))
alone = decode(prompt=["?c"] * 8, temperature=1.0, seed=2, gamma=1e-9)
print("forwards:", sum(draws.nfe), "together,", sum(alone.nfe), "one by one")
assert sum(draws.nfe) < sum(alone.nfe)

# %% [markdown]
# ## 6. When one forward cannot know
# A denoiser that eliminates candidates of a Sudoku one round a forward: what it is unsure of must
# wait. The error budget waits; a rule that takes one token beyond its budget guesses.

# %%
from probcomp.decoding.oracles.shallow import shallow_sudoku

puzzle = torch.tensor([[5, 1, 5, 3, 2, 5, 5, 1, 5, 0, 3, 5, 3, 5, 1, 5]])  # 5 is a gap
solved = decode(shallow_sudoku(), input_ids=puzzle)
print(solved.sequences[0].view(4, 4).tolist(), "in", solved.nfe[0], "forwards")

# %% [markdown]
# ## 7. The check
# The block prior must never move the length posterior: with no evidence about boundaries, the
# semi-Markov pass returns the end weights it was given, for any law of durations.

# %%
weights = torch.randn(1, 33, dtype=torch.float64)
silent = torch.zeros(1, 32, dtype=torch.float64)
for family in (NegativeBinomial(8.0), Fixed(5)):
    posterior = structure_posterior(weights, silent, log_duration(family))
    assert torch.allclose(posterior.p_end, weights.softmax(1), atol=1e-12)
print("the block prior leaves the length alone")
