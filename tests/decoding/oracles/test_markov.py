"""The oracle against enumeration, and the claims about decoders that need an exact denoiser."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.end import allowed_ends, cdf_end
from probcomp.decoding.ledger import Ledger
from probcomp.decoding.loop import Decoder
from probcomp.decoding.noise import row_seeds
from probcomp.decoding.oracles import MarkovOracle
from probcomp.decoding.rows import Rows

EXACT = 1e-10
ORACLE = MarkovOracle.random(6, 0.06, 0)
N = 24


def texts(oracle, n):
    """Every text of n positions with its probability."""
    found = {}
    for x in itertools.product(range(oracle.symbols + 1), repeat=n):
        p = float(oracle.begin[x[0]])
        for a, b in itertools.pairwise(x):
            p *= float(oracle.step[a, b])
        if p > 0:
            found[x] = p
    return found


@settings(max_examples=8)
@given(st.integers(0, 10**6), st.lists(st.booleans(), min_size=4, max_size=4))
def test_marginals_are_enumeration_under_partial_observation(seed, hidden):
    oracle = MarkovOracle.random(3, 0.2, seed)
    truth = oracle.sample(1, 4, seed)[0].tolist()
    ids = torch.tensor([[oracle.mask_id if h else x for x, h in zip(truth, hidden)]])
    want, total = torch.zeros(4, 4, dtype=torch.float64), 0.0
    for x, p in texts(oracle, 4).items():
        if all(h or a == b for a, b, h in zip(x, truth, hidden)):
            total += p
            for i, value in enumerate(x):
                want[i, value] += p
    torch.testing.assert_close(oracle.marginals(ids)[0], want / total, atol=EXACT, rtol=0)
    assert float(oracle.log_prob(ids)) == pytest.approx(math.log(total))


@settings(max_examples=8)
@given(st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_eos_marginals_are_the_cdf_of_the_end(seed, share):
    """e_i = P(E <= i | visible), so differences of e are the posterior, whatever is visible."""
    oracle = MarkovOracle.random(4, 0.15, seed)
    n, generator = 5, torch.Generator().manual_seed(seed)
    truth = oracle.sample(1, n, seed)
    hidden = torch.rand(1, n, generator=generator) < share
    ids = torch.where(hidden, oracle.mask_id, truth)
    mass = oracle.marginals(ids)[..., oracle.eos_id]
    want = torch.zeros(n + 1, dtype=torch.float64)
    for x, p in texts(oracle, n).items():
        if all(bool(h) or a == int(b) for a, b, h in zip(x, truth[0], hidden[0])):
            want[x.index(oracle.eos_id) if oracle.eos_id in x else n] += p
    visible = ~hidden
    eos = visible & (truth == oracle.eos_id)
    allowed = allowed_ends(visible & ~eos, eos, torch.tensor([n]))
    found = cdf_end(mass, allowed, torch.tensor([n]))[0]
    torch.testing.assert_close(found, want / want.sum(), atol=1e-9, rtol=0)
    assert (mass.diff(dim=1) >= -1e-9).all()


def run(config, rows=60, teacher=None, seed=0):
    state = Rows(
        torch.full((rows, N), ORACLE.mask_id),
        torch.full((rows,), N),
        torch.ones(rows, dtype=torch.bool),
        ORACLE.mask_id,
        ledger=Ledger.open(rows, config.error_total, config.error_step),
        sizing=False,
    )
    empty = torch.zeros(rows, 0, dtype=torch.long)
    entropies = []

    def watch(step):
        entropies.append(step)

    Decoder(ORACLE.adapter(), config).run(
        empty, empty, state, row_seeds(seed, rows), teacher=teacher, observer=watch
    )
    return state


FREE = DecodingConfig(sizing="none", blocks="none", stop="none", beyond=False, max_new_tokens=N)


def divergence(config, rows=150):
    """KL(p || q) in nats by sending texts of the law through the decoder, and forwards a text."""
    truth = ORACLE.sample(rows, N, 5)
    state = run(config, rows, teacher=truth)
    kl = float((ORACLE.log_prob(truth) - state.teacher_log_prob).mean())
    return kl, float(state.nfe.double().mean())


def test_one_token_at_a_time_is_exact():
    kl, forwards = divergence(FREE.replace(rule="quota", steps=10**6))
    assert abs(kl) < 1e-8  # log q sums 24 rounded terms a text
    assert forwards == N


@pytest.mark.parametrize("gamma", [0.35, 1.0])
def test_divergence_is_below_the_sum_of_entropy_budgets(gamma):
    kl, forwards = divergence(FREE.replace(rule="entropy", gamma=gamma))
    assert 0 < kl <= gamma * forwards
    assert forwards < N


def test_coupling_buys_forwards_at_less_divergence():
    """On a Markov chain the coupled surrogate needs under half the forwards of the entropy rule."""
    by_entropy, slow = divergence(FREE.replace(rule="entropy", gamma=0.35))
    by_coupling, fast = divergence(
        FREE.replace(rule="coupled", gamma=0.35, coupling_length=4.0, markov_cut=True)
    )
    assert fast < 0.6 * slow
    assert by_coupling < by_entropy + 0.1


def test_sampling_one_token_at_a_time_follows_the_law():
    """Mean length of sampled texts, order chosen by the marginals, against the law: 4.5 sigma."""
    config = FREE.replace(rule="budget", error_step=1e-9, temperature=1.0, stop="posterior")
    config = config.replace(end_model="cdf", stop_mass=1.0)
    rows = 400
    state = run(config, rows)
    assert torch.isfinite(ORACLE.log_prob(state.ids)).all()
    law = ORACLE.sample(20_000, N, 9)
    want = (law != ORACLE.eos_id).sum(1).double()
    error = float(want.std()) / math.sqrt(rows)
    assert abs(float(state.content.double().mean()) - float(want.mean())) < 4.5 * error


def test_pair_information_is_the_coupling_of_a_chain():
    oracle = MarkovOracle.random(3, 0.2, 4)
    ids = torch.full((1, 3), oracle.mask_id)
    laws = texts(oracle, 3)
    joint = torch.zeros(4, 4, dtype=torch.float64)
    for x, p in laws.items():
        joint[x[0], x[2]] += p
    independent = joint.sum(1)[:, None] * joint.sum(0)
    on = joint > 0
    want = float((joint[on] * (joint[on] / independent[on]).log()).sum())
    assert float(oracle.pair_information(ids)[0, 2]) == pytest.approx(want)


@settings(max_examples=8)
@given(st.integers(0, 10**6), st.lists(st.booleans(), min_size=4, max_size=4))
def test_the_best_completion_is_the_best_of_all_texts(seed, hidden):
    oracle = MarkovOracle.random(3, 0.2, seed)
    truth = oracle.sample(1, 4, seed)[0].tolist()
    ids = torch.tensor([[oracle.mask_id if h else x for x, h in zip(truth, hidden)]])
    text, score = oracle.most_likely(ids)
    fits = {
        x: p
        for x, p in texts(oracle, 4).items()
        if all(h or a == b for a, b, h in zip(x, truth, hidden))
    }
    assert float(score) == pytest.approx(math.log(max(fits.values())), abs=EXACT)
    assert fits[tuple(text[0].tolist())] == pytest.approx(max(fits.values()))


def test_the_gap_of_greedy_decoding_to_the_best_text():
    """Half-masked texts filled in greedily: never above Viterbi, and one token at a time close to
    it; committing without looking at what tokens share falls further behind."""
    truth = ORACLE.sample(80, N, 21)
    hidden = torch.rand(80, N, generator=torch.Generator().manual_seed(3)) < 0.6
    ids = torch.where(hidden, ORACLE.mask_id, truth)
    best = ORACLE.most_likely(ids)[1]

    def gap(config):
        state = Rows(
            ids,
            torch.full((80,), N),
            torch.zeros(80, dtype=torch.bool),
            ORACLE.mask_id,
            ledger=Ledger.open(80, config.error_total, config.error_step),
            sizing=False,
        )
        empty = torch.zeros(80, 0, dtype=torch.long)
        Decoder(ORACLE.adapter(), config).run(empty, empty, state, row_seeds(0, 80))
        return best - ORACLE.log_prob(state.ids)

    serial, bold = (
        gap(FREE.replace(rule="quota", steps=10**6)),
        gap(FREE.replace(rule="threshold", threshold=0.0)),
    )
    assert float(serial.min()) > -1e-9
    assert float(bold.min()) > -1e-9
    assert float(serial.mean()) < 0.5  # nats a text of some 14 hidden tokens
    assert float(bold.mean()) > 2 * float(serial.mean())


def test_impossible_texts_are_as_rare_as_the_divergence_says():
    """P_q(impossible) <= TV(p, q) <= sqrt(1 - exp(-KL(p || q))); one token at a time writes none,
    parallel draws do. Charging what neighbours share writes fewer of them in fewer forwards than
    the entropy bound at the budget that brings it nearest in forwards."""
    rows = 300

    def drawn(**options):
        state = run(FREE.replace(temperature=1.0, **options), rows)
        lost = ~torch.isfinite(ORACLE.log_prob(state.ids))
        return float(lost.double().mean()), float(state.nfe.double().mean())

    assert drawn(rule="quota", steps=10**6)[0] == 0.0
    options = {"rule": "entropy", "gamma": 0.35}
    kl, _ = divergence(FREE.replace(**options))
    (parallel, slow), bound = drawn(**options), math.sqrt(1 - math.exp(-kl))
    error = math.sqrt(bound * (1 - bound) / rows)
    assert 0.0 < parallel <= bound + 3 * error
    coupled = {"rule": "coupled", "gamma": 0.35, "coupling_length": 4.0, "markov_cut": True}
    fewer, fast = drawn(**coupled)
    bold, middle = drawn(rule="entropy", gamma=1.0)
    assert fast < middle < slow
    two = (fewer * (1 - fewer) + bold * (1 - bold)) / rows
    assert fewer < bold - 3 * math.sqrt(two)
