"""Named configurations on the one loop: ours, and published decoders for comparison.

The published ones are re-implementations from their papers and public code; each is one value of
`DecodingConfig`. They fill the whole canvas, as published; ``stop="eos"`` may be set on any.
"""

from probcomp.decoding.config import DecodingConfig
from probcomp.registry import Registry

presets: Registry[DecodingConfig] = Registry("decoding preset")

presets.add("bayes", DecodingConfig())

_fixed = DecodingConfig(
    max_new_tokens=256,
    sizing="none",
    blocks="fixed",
    block_length=32,
    carry=False,
    stop="none",
    beyond=False,
)

# One token a forward, the most confident first: the quality reference.
presets.add("serial", _fixed.replace(blocks="none", rule="quota", steps=1_000_000))

# LLaDA generate (arXiv 2502.09992): masks // steps most confident tokens of a block a forward.
presets.add("llada", _fixed.replace(rule="quota", steps=32))

# Fast-dLLM (arXiv 2505.22618): all above 0.9 in a block of 32, else the best.
presets.add("fixed", _fixed.replace(rule="threshold", threshold=0.9))

# Fast-dLLM's factor rule.
presets.add("factor", _fixed.replace(rule="factor", factor=1.0))

# EB-Sampler (arXiv 2505.24857), gamma as in the Transformers sampler.
presets.add("eb", _fixed.replace(blocks="none", rule="entropy", gamma=0.1))

# DAEDAL (arXiv 2508.00819): grow until the end looks like one, then insert masks where in doubt.
presets.add(
    "daedal",
    _fixed.replace(
        max_new_tokens=2048,
        initial_length=64,
        sizing="daedal",
        rule="threshold",
        threshold=0.9,
        insert=True,
        max_edits=10_000,
    ),
)

# rho-EOS (arXiv 2601.22527): keep the share of EOS among the masks in [0.4, 0.6].
presets.add(
    "rho_eos",
    _fixed.replace(
        max_new_tokens=2048,
        initial_length=64,
        sizing="rho_eos",
        rule="threshold",
        threshold=0.9,
        max_edits=64,
    ),
)

# AdaBlock (arXiv 2509.26432): blocks end at the most confident delimiter ahead.
presets.add(
    "adablock",
    _fixed.replace(blocks="delimiter", rule="threshold", threshold=0.9, block_threshold=0.3),
)

# KLASS (arXiv 2511.05664): confident, and calm for two forwards; else one token.
presets.add(
    "klass",
    _fixed.replace(
        block_length=64,
        rule="stable",
        threshold=0.6,
        stable_kl=0.015,
        stable_history=2,
        steps=64,
    ),
)

# WINO (arXiv 2507.18578): draft above 0.6, take back what the shadow gives less than 0.9.
presets.add(
    "wino",
    _fixed.replace(block_length=128, rule="capped", threshold=0.6, verify="wino", below=0.9),
)

# Built from the published ingredients of DyStruct (arXiv 2605.09820), whose equations are not
# public: restaurant-process blocks, Poisson growth, a Gibbs order, and border repair.
presets.add(
    "dystruct",
    DecodingConfig(
        sizing="poisson",
        blocks="posterior",
        block_prior="crp",
        carry=False,
        order="gibbs",
        border=3,
        rule="budget",
    ),
)
