"""The measured profile against the exact information of a chain, and rules that use it."""

import pytest
import torch

from probcomp.decoding.calibrating.coupling import fit_coupling
from probcomp.decoding.oracles import EnumeratedOracle, MarkovOracle


def test_independent_tokens_have_no_profile():
    oracle = EnumeratedOracle([(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)], 2)
    pairs = [([], text.tolist()) for text in oracle.sample(60, 0)]
    assert fit_coupling(oracle.adapter(), pairs, 8, 0) == ()


def test_copies_share_all_they_have_at_their_gap_alone():
    """x_2 = x_0 and x_3 = x_1: everything at gap 2, nothing at 1 and 3."""
    oracle = EnumeratedOracle([(a, b, a, b) for a in range(4) for b in range(4)], 4)
    pairs = [([], text.tolist()) for text in oracle.sample(200, 0)]
    profile = fit_coupling(oracle.adapter(), pairs, 8, 0)
    assert len(profile) == 2
    assert profile[0] == pytest.approx(0.0, abs=1e-9)
    assert profile[1] > 0.95  # two nats of shrinkage against some hundreds


def test_on_a_chain_neighbours_share_most():
    oracle = MarkovOracle.random(4, 0.08, 1)
    texts = oracle.sample(120, 16, 2).tolist()
    pairs = [([], text[: text.index(oracle.eos_id)]) for text in texts if oracle.eos_id in text]
    profile = fit_coupling(oracle.adapter(), pairs, 16, 0)
    assert profile[0] > max(profile[2:6])
    assert torch.tensor(profile).max() <= 1.0
