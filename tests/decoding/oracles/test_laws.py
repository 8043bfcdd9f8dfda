"""Enumerated laws and shallow denoisers, and what decoders do on them."""

import itertools
import math

import pytest
import torch

from probcomp.decoding import decode
from probcomp.decoding.blocks import structure_posterior
from probcomp.decoding.calibrating.ends import fit_beta
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.coupled import coupled
from probcomp.decoding.durations import Geometric, log_duration
from probcomp.decoding.end import beyond_probability, cdf_end, tail_mean, with_beyond
from probcomp.decoding.length import NEG
from probcomp.decoding.oracles import MarkovOracle
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
from probcomp.decoding.partition import map_partition

EXACT = 1e-12
SERIAL = {"rule": "budget", "error_step": 1e-9, "sizing": "none", "beyond": False}


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


def written(symbols, border, n, rows, seed):
    """Texts of `segments` with the borders they were written with, [rows, n] and [rows, n - 1]."""
    generator = torch.Generator().manual_seed(seed)
    cut = torch.rand(rows, n - 1, generator=generator) < border
    fresh = torch.randint(symbols, (rows, n), generator=generator)
    text = fresh.clone()
    for i in range(1, n):
        text[:, i] = torch.where(cut[:, i - 1], fresh[:, i], (text[:, i - 1] + 1) % symbols)
    return text, cut


def f1(found, true):
    """F1 of boundaries, both boolean of one shape."""
    return float(2 * (found & true).sum() / (found.sum() + true.sum()))


def test_boundary_f1_on_segments():
    """The best partition finds every border that shows and no other: F1 is what the law allows,
    2 s / (1 + s) with s = 1 - 1/V the share that shows. A fixed grid is far below."""
    symbols, border, n, rows = 6, 0.25, 24, 400
    text, cut = written(symbols, border, n, rows, 3)
    follows = (text[:, 1:] - text[:, :-1]) % symbols == 1
    # log P(next | border) - log P(next | none), certainty at 12 nats as in the loop.
    r = torch.where(follows, -math.log(symbols), 12.0).double()
    r = torch.nn.functional.pad(r, (0, 1))  # nothing is seen behind the last token
    ends = torch.full((rows, n + 1), NEG, dtype=torch.float64)
    ends[:, n] = 0.0  # the text fills its window
    durations = log_duration(Geometric(1 / border, 24))
    posterior = structure_posterior(ends, r, durations)
    by_odds = posterior.p_boundary[:, : n - 1] > 0.5
    at = map_partition(ends, r, durations, n)
    best = torch.zeros(rows, n + 1, dtype=torch.bool).scatter(1, at, True)[:, 1:n]
    share = 1 - 1 / symbols
    ceiling = 2 * share / (1 + share)
    # 2,300 borders: a standard error of 0.005.
    assert f1(by_odds, cut) == pytest.approx(ceiling, abs=0.02)
    assert f1(best, cut) == pytest.approx(ceiling, abs=0.02)
    grid = torch.zeros(rows, n - 1, dtype=torch.bool)
    grid[:, 3::4] = True
    assert f1(grid, cut) < 0.5 * ceiling
    # A border that does not show has the chance of the law: p/V of p/V + 1 - p.
    chance = border / symbols / (border / symbols + 1 - border)
    inside = posterior.p_boundary[:, 4 : n - 5][follows[:, 4 : n - 5]]
    assert float(inside.mean()) == pytest.approx(chance, abs=0.01)


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


def test_total_correlation_is_below_the_entropy_bound_of_random_joints():
    for seed in range(20):
        oracle = tabular(3, 3, seed)
        blank = torch.full((1, 3), oracle.mask_id)
        h = torch.special.entr(oracle.marginals(blank)[0]).sum(1)
        total = h.sum() - torch.special.entr(oracle.weights).sum()
        assert float(total) <= float(h.sum() - h.max()) + EXACT
    assert len(list(itertools.product(range(3), repeat=3))) == len(oracle.texts)
