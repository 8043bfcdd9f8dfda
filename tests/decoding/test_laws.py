"""Enumerated laws and shallow denoisers, and what decoders do on them."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.decoding import decode
from probcomp.decoding.calibrating.ends import fit_beta
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.coupled import coupled
from probcomp.decoding.end import beyond_probability, cdf_end, tail_mean, with_beyond
from probcomp.decoding.oracles import EnumeratedOracle, MarkovOracle
from probcomp.decoding.oracles.laws import (
    balanced,
    brackets,
    fitting,
    lawful,
    records,
    segments,
    sudoku,
    tabular,
    xor_blocks,
)
from probcomp.decoding.oracles.shallow import chain_text, shallow_chain, shallow_sudoku
from probcomp.errors import InputError

EXACT = 1e-12
SERIAL = {"rule": "budget", "error_step": 1e-9, "sizing": "none", "beyond": False}


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


def test_eos_marginals_of_a_list_are_a_cdf():
    oracle = brackets(4)
    blank = torch.full((1, 10), oracle.mask_id)
    mass = oracle.marginals(blank)[..., oracle.eos_id]
    p = cdf_end(mass, torch.ones(1, 11, dtype=torch.bool), torch.tensor([10]))[0]
    law = torch.zeros(11, dtype=torch.float64)
    for text, weight in zip(oracle.texts, oracle.weights):
        law[int((text != oracle.eos_id).sum())] += weight
    torch.testing.assert_close(p, law, atol=EXACT, rtol=0)


def test_pairs_of_an_xor_say_nothing_and_triples_do():
    """So a rule that charges pairs of tokens is no bound on what they share."""
    oracle = xor_blocks(1)
    blank = torch.full((1, 3), oracle.mask_id)
    single = oracle.marginals(blank)[0, :, :2]
    entropy = torch.special.entr(single).sum(1).sum()
    total = entropy - torch.special.entr(oracle.weights).sum()
    assert float(total) == pytest.approx(0.6931, abs=1e-4)  # one bit
    shown = blank.clone()
    shown[0, 0] = 1
    pair = (
        torch.special.entr(single[1]).sum()
        - torch.special.entr(oracle.marginals(shown)[0, 1, :2]).sum()
    )
    assert float(pair) == pytest.approx(0.0, abs=EXACT)
    information = torch.zeros(1, 3, 3, dtype=torch.float64)
    chosen = coupled(information, torch.ones(1, 3, dtype=torch.bool), 0.35)
    assert chosen.all()  # charged 0 of 0.35 nats, although it shares 0.69


def test_one_token_at_a_time_never_leaves_a_grammar():
    oracle = brackets(4)
    config = DecodingConfig(temperature=1.0, max_new_tokens=9, blocks="none", stop="eos", **SERIAL)
    ids = torch.full((40, 1), 0)
    # A prompt of the adapter's own: the law is of what follows any first token.
    adapter = after_prompt(oracle)
    output = decode(adapter, input_ids=ids, generation_config=config, seed=1)
    assert all(balanced(tuple(answer.tolist())) for answer in output.answers)
    bold = decode(
        adapter,
        input_ids=ids,
        generation_config=config.replace(rule="threshold", threshold=0.4),
        seed=1,
    )
    assert not all(balanced(tuple(answer.tolist())) for answer in bold.answers)
    assert sum(bold.nfe) < sum(output.nfe)


def after_prompt(oracle):
    adapter = oracle.adapter()
    inner = adapter.function
    adapter.function = lambda ids, keys: torch.nn.functional.pad(
        inner(ids[:, 1:], keys[:, 1:]), (0, 0, 1, 0)
    )
    return adapter


def test_all_grids_and_records_are_lawful_and_counted():
    grids = sudoku()
    assert len(grids.texts) == 288
    assert all(lawful(tuple(grid)) for grid in grids.texts.tolist())
    small = records(2, 2)
    assert len(small.texts) == 2 * 2 + 4
    assert all(text.tolist().count(0) == 1 for text in small.texts)


def test_borders_of_segments_show_in_the_text():
    oracle = segments(5, border=0.3, hazard=0.05)
    text = oracle.sample(2000, 12, 0)
    both = (text[:, 1:] < 5) & (text[:, :-1] < 5)
    breaks = ((text[:, 1:] - text[:, :-1]) % 5 != 1) & both
    # A fresh symbol is the follower by chance one time in five.
    assert float(breaks.sum() / both.sum()) == pytest.approx(0.3 * 0.8, abs=0.02)


def test_a_chain_needs_one_forward_a_step_and_no_less():
    adapter = shallow_chain(7, 3, 2, length=6)
    want = chain_text(4, 7, 3, 2, 6)
    common = {"input_ids": torch.tensor([[4]]), "max_new_tokens": 10}
    for preset in ("serial", "fixed"):
        output = decode(adapter, preset=preset, stop="eos", **common)
        assert output.answers[0].tolist() == want
    # The entropy rule leaves the largest entropy out of its sum, so it also takes one blind guess.
    assert decode(adapter, preset="eb", stop="eos", **common).answers[0].tolist() != want
    bayes = decode(adapter, initial_length=10, beyond=False, end_model="cdf", **common)
    assert bayes.answers[0].tolist() == want
    assert bayes.nfe == [6]
    deep = decode(
        shallow_chain(7, 3, 2, length=6, depth=3),
        initial_length=10, beyond=False, end_model="cdf", **common,
    )  # fmt: skip
    assert deep.answers[0].tolist() == want
    assert deep.nfe == [2]


def test_sudoku_by_elimination_is_solved_in_its_serial_depth():
    grid = (0, 1, 2, 3, 2, 3, 0, 1, 1, 0, 3, 2, 3, 2, 1, 0)
    hidden = (0, 1, 4, 7, 8, 10, 13)
    ids = torch.tensor([[5 if i in hidden else x for i, x in enumerate(grid)]])
    assert sorted(set(grid)) == [0, 1, 2, 3]
    assert lawful(grid)
    one, deep = (decode(shallow_sudoku(d), input_ids=ids) for d in (1, 8))
    for output in (one, deep):
        solved = ids[0].clone()
        solved[0:] = torch.cat((ids[0, :0], output.sequences[0]))
        assert tuple(solved.tolist()) == grid
    assert deep.nfe[0] <= one.nfe[0]


def test_beyond_mass_of_a_model_that_only_saw_what_fits():
    """Its EOS marginals say that every text ends inside: uncorrected the score is unbounded;
    with the tail densities and the prior it beats that prior by what the window shows."""
    chain, width = MarkovOracle.random(2, 0.15, 3), 7
    seen = fitting(chain, width)
    truth = chain.sample(600, 24, 1)
    end = torch.where(truth == chain.eos_id, torch.arange(24), 24).min(1).values + 1
    visible = torch.full((600, width), chain.mask_id)
    visible[:, :2] = truth[:, :2]  # a start that is shown
    going = end > 2
    visible, end = visible[going], end[going]
    mass = seen.marginals(visible)[..., seen.eos_id]
    length = torch.full((len(end),), width)
    allowed = torch.ones(len(end), width + 1, dtype=torch.bool)
    p = cdf_end(mass, allowed, length)
    assert float(p[:, width].max()) < EXACT  # never "beyond"
    fits = end <= width
    mean = tail_mean(mass, length, 2)
    survival = torch.full((len(end),), (1 - 0.15) ** (width - 2), dtype=torch.float64)
    past = beyond_probability(mean, survival, fit_beta(mean[~fits]), fit_beta(mean[fits]))
    corrected = with_beyond(p, length, past)
    column = torch.minimum(end - 1, length)
    score = corrected.gather(1, column[:, None]).clamp(min=1e-30).log().mean()
    raw = p.gather(1, column[:, None]).clamp(min=1e-30).log().mean()
    assert float(score) > float(raw) + 1.0
    assert float(past.mean()) == pytest.approx(float((~fits).double().mean()), abs=0.05)


def test_an_empty_list_is_refused():
    with pytest.raises(InputError, match="at least one"):
        EnumeratedOracle([], 2)


def test_total_correlation_is_below_the_entropy_bound_of_random_joints():
    for seed in range(20):
        oracle = tabular(3, 3, seed)
        blank = torch.full((1, 3), oracle.mask_id)
        h = torch.special.entr(oracle.marginals(blank)[0]).sum(1)
        total = h.sum() - torch.special.entr(oracle.weights).sum()
        assert float(total) <= float(h.sum() - h.max()) + EXACT
    assert len(list(itertools.product(range(3), repeat=3))) == len(oracle.texts)
