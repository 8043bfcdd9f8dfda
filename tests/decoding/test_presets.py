"""Presets against the published algorithms, forward by forward: the sets that are committed."""

import pytest
import torch

from probcomp.decoding.presets import presets
from probcomp.errors import InputError
from tests.decoding import published
from tests.decoding.worlds import EOS, MASK, random_world, run_rows

SEEDS = range(6)
N = 40


def compare(config, reference, seed, *, more=None, scale=4.0, eos_bias=0.0, reach=3.0):
    adapter = random_world(seed, scale=scale, eos_bias=eos_bias, reach=reach)
    state, steps = run_rows(adapter, config, context=torch.tensor([[seed % 5]]))
    want, x = reference(published.probabilities(adapter, seed % 5))
    found = []
    for step in steps:
        committed = step.commit[0].nonzero()[:, 0].tolist()
        found.append(committed if more is None else (committed, more(step)))
    assert found == want
    assert state.ids[0, : int(state.length[0])].tolist() == x
    return want


@pytest.mark.parametrize("seed", SEEDS)
def test_llada(seed):
    config = presets["llada"].replace(max_new_tokens=N, block_length=16, steps=7)
    compare(config, lambda p: published.quota(p, N, 16, 7), seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_serial(seed):
    config = presets["serial"].replace(max_new_tokens=N)
    trace = compare(config, lambda p: published.quota(p, N, N, 10**6), seed)
    assert len(trace) == N


@pytest.mark.parametrize("seed", SEEDS)
def test_fixed(seed):
    config = presets["fixed"].replace(max_new_tokens=N)
    compare(config, lambda p: published.threshold(p, N, 32, 0.9), seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_factor(seed):
    config = presets["factor"].replace(max_new_tokens=N)
    compare(config, lambda p: published.factor(p, N, 32, 1.0), seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_eb(seed):
    config = presets["eb"].replace(max_new_tokens=N)
    compare(config, lambda p: published.entropy_bounded(p, N, 0.1), seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_adablock(seed):
    config = presets["adablock"].replace(max_new_tokens=N, delimiters=((3, 1.0),))
    compare(config, lambda p: published.adablock(p, N, 32, 0.9, 3, 0.3), seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_klass(seed):
    config = presets["klass"].replace(max_new_tokens=80, stable_kl=0.05)
    trace = compare(config, lambda p: published.klass(p, 80, 64, 0.6, 0.05, 2, 64), seed)
    assert max(map(len, trace)) > 1  # calm positions were found, not only the fallback


@pytest.mark.parametrize("seed", SEEDS)
def test_wino(seed):
    config = presets["wino"].replace(max_new_tokens=N, block_length=24)
    trace = compare(
        config,
        lambda p: published.wino(p, N, 24, 0.6, 0.9, 0.7, 5, 20),
        seed,
        more=lambda step: step.revoked[0].nonzero()[:, 0].tolist(),
    )
    assert any(back for _, back in trace)


# Wide vocabularies of flat marginals: what DAEDAL's insertion is for.
DAEDAL_CASES = [(0, 4.0, 0.5), (1, 0.5, 0.2), (2, 0.6, 0.1), (3, 0.4, 0.15)]


@pytest.mark.parametrize(("seed", "scale", "bias"), DAEDAL_CASES)
def test_daedal(seed, scale, bias):
    config = presets["daedal"].replace(initial_length=24, max_new_tokens=96)
    adapter = random_world(seed, scale=scale, eos_bias=bias, vocab=30)
    state, steps = run_rows(adapter, config, context=torch.tensor([[seed % 5]]))
    want, x = published.daedal(published.probabilities(adapter, seed % 5), 24, 96, 32, 0.9)
    assert [step.commit[0].nonzero()[:, 0].tolist() for step in steps] == [c for c, _ in want]
    assert state.ids[0, : int(state.length[0])].tolist() == x
    assert int(state.insertions[0]) == sum(
        grow == 7 and bool(committed) for committed, grow in want
    )


def test_daedal_cases_cover_growth_and_insertion():
    grown, inserted = 0, 0
    for seed, scale, bias in DAEDAL_CASES:
        adapter = random_world(seed, scale=scale, eos_bias=bias, vocab=30)
        trace, _ = published.daedal(published.probabilities(adapter, seed % 5), 24, 96, 32, 0.9)
        grown += sum(grow for committed, grow in trace if not committed)
        inserted += sum(grow == 7 for committed, grow in trace if committed)
    assert grown
    assert inserted


@pytest.mark.parametrize(("seed", "bias"), [(0, 0.0), (1, 0.6), (2, 1.5), (3, 0.3), (4, 3.0)])
def test_rho_eos(seed, bias):
    config = presets["rho_eos"].replace(initial_length=32, max_new_tokens=128)
    compare(
        config,
        lambda p: published.rho_eos(p, 32, 128, 32, 0.9, 64),
        seed,
        eos_bias=bias,
        more=lambda step: int(step.change[0]),
    )


def test_dystruct_grows_orders_and_repairs():
    config = presets["dystruct"].replace(
        initial_length=24, max_new_tokens=64, block_mean=6.0, block_max=16, length_mean=60.0
    )
    revoked = grown = out_of_order = 0
    for seed in range(8):
        state, steps = run_rows(random_world(seed), config)
        revoked += int(state.revocations.sum())
        grown += int(state.extensions.sum())
        begins = [int(step.begin[0]) for step in steps]
        out_of_order += begins != sorted(begins)
    assert revoked
    assert grown
    assert out_of_order


def test_unknown_preset_names_the_near_one():
    with pytest.raises(InputError, match="daedal"):
        presets["deadal"]


def test_presets_keep_what_the_papers_state():
    assert presets["fixed"].threshold == 0.9
    assert presets["fixed"].block_length == 32
    assert (presets["wino"].threshold, presets["wino"].below) == (0.6, 0.9)
    assert presets["klass"].stable_kl == 0.015
    assert EOS != MASK
