"""A law written down text by text: its conditionals against brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.decoding.end import cdf_end
from probcomp.decoding.oracles import EnumeratedOracle
from probcomp.decoding.oracles.laws import brackets, tabular
from probcomp.errors import InputError

EXACT = 1e-12


def test_eos_marginals_of_a_list_are_a_cdf():
    oracle = brackets(4)
    blank = torch.full((1, 10), oracle.mask_id)
    mass = oracle.marginals(blank)[..., oracle.eos_id]
    p = cdf_end(mass, torch.ones(1, 11, dtype=torch.bool), torch.tensor([10]))[0]
    law = torch.zeros(11, dtype=torch.float64)
    for text, weight in zip(oracle.texts, oracle.weights):
        law[int((text != oracle.eos_id).sum())] += weight
    torch.testing.assert_close(p, law, atol=EXACT, rtol=0)


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.lists(st.integers(-1, 2), min_size=4, max_size=4))
def test_marginals_of_a_table_are_brute_force(seed, shown):
    oracle = tabular(4, 3, seed)
    ids = torch.tensor([[oracle.mask_id if s < 0 else s for s in shown]])
    want, total = torch.zeros(4, 4, dtype=torch.float64), 0.0
    for text, p in zip(oracle.texts.tolist(), oracle.weights.tolist()):
        if all(s < 0 or s == x for s, x in zip(shown, text)):
            total += p
            for i, x in enumerate(text):
                want[i, x] += p
    torch.testing.assert_close(oracle.marginals(ids)[0], want / total, atol=EXACT, rtol=1e-9)
    assert float(oracle.log_prob(ids)) == pytest.approx(torch.tensor(total).log().item())


def test_an_empty_list_is_refused():
    with pytest.raises(InputError, match="at least one"):
        EnumeratedOracle([], 2)


def test_draws_follow_the_weights_and_longer_canvases_are_filled_with_ends():
    oracle = EnumeratedOracle([(0,), (1, 0)], 2, torch.tensor([3.0, 1.0]))
    drawn = oracle.sample(4000, 0)
    # A share of 3/4 and its four standard errors.
    assert float((drawn[:, 1] == oracle.eos_id).double().mean()) == pytest.approx(0.75, abs=0.028)
    wide = oracle.marginals(torch.full((1, 4), oracle.mask_id))
    assert wide[0, 2:, oracle.eos_id].tolist() == [1.0, 1.0]


def test_a_row_that_left_the_law_gets_uniform_marginals():
    oracle = EnumeratedOracle([(0, 0), (1, 1)], 2)
    ids = torch.tensor([[0, 1], [0, oracle.mask_id]])
    p = oracle.adapter().logits(ids, torch.ones_like(ids), 0).softmax(-1)
    torch.testing.assert_close(p[0, :, :3], torch.full((2, 3), 1 / 3, dtype=p.dtype))
    assert float(p[1, 1, 0]) == pytest.approx(1.0)
