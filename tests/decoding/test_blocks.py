import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.decoding.blocks import structure_posterior
from probcomp.decoding.durations import (
    Crp,
    Fixed,
    Geometric,
    NegativeBinomial,
    log_duration,
)
from probcomp.decoding.end import allowed_ends, tail_sums
from probcomp.decoding.length import NEG, LengthPrior
from probcomp.decoding.partition import map_partition
from tests.decoding.enumeration import enumerate_structures, random_rows

EXACT = 1e-10  # float64; both sides sum the same few hundred terms
FLOAT32 = 2e-5  # float32 recursion of eight steps
FAMILIES = [Geometric(2.0, 4), Fixed(3), NegativeBinomial(2.5, 2.0, 4), Crp(1.3, 4), Crp(0.3, 8)]


def problem(seed, batch=3, width=7, segment=False, longest=4):
    prior = LengthPrior.constant(5.0).log_end(torch.full((batch,), width), width)
    weights = prior + 0.7 * tail_sums(random_rows(seed, batch, width))
    g = random_rows(seed + 2, batch, width, longest) if segment else None
    return weights, random_rows(seed + 1, batch, width), g


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize("segment", [False, True])
@pytest.mark.parametrize("size", [1, 3, 7, 8])
def test_posterior_is_enumeration(family, segment, size):
    log_d, log_longer = log_duration(family)
    weights, r, g = problem(3, width=size, segment=segment, longest=len(log_d))
    found = structure_posterior(weights, r, (log_d, log_longer), g)
    for row in range(len(r)):
        want = enumerate_structures(
            weights[row], r[row], log_d, log_longer, None if g is None else g[row]
        )
        assert abs(float(found.log_evidence[row]) - want["log_z"]) < EXACT
        torch.testing.assert_close(found.p_end[row], want["p_end"], atol=EXACT, rtol=0)
        torch.testing.assert_close(found.p_boundary[row], want["p_boundary"], atol=EXACT, rtol=0)
        width = found.p_first.shape[1]
        torch.testing.assert_close(found.p_first[row], want["p_first"][:width], atol=EXACT, rtol=0)
        assert abs(float(found.p_last[row]) - want["p_last"]) < EXACT


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 8), st.sampled_from(FAMILIES))
def test_first_block_and_last_stretch_share_the_mass(seed, width, family):
    weights, r, _ = problem(seed, width=width)
    found = structure_posterior(weights, r, log_duration(family))
    torch.testing.assert_close(
        found.p_first.sum(1) + found.p_last, torch.ones(3, dtype=torch.float64)
    )
    torch.testing.assert_close(found.p_end.sum(1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_hard_evidence_and_short_windows(family):
    """Committed content, a committed EOS, a forced border, and rows of different length."""
    width, length = 7, torch.tensor([7, 5, 6])
    content = torch.zeros(3, width, dtype=torch.bool)
    content[0, 2] = content[1, 0] = True
    eos = torch.zeros(3, width, dtype=torch.bool)
    eos[2, 4] = True
    allowed = allowed_ends(content, eos, length)
    assert allowed[0].tolist() == [False] * 3 + [True] * 5
    assert allowed[1].tolist() == [False] + [True] * 5 + [False] * 2
    assert allowed[2].tolist() == [True] * 5 + [False] * 3
    prior = LengthPrior.constant(5.0).log_end(length, width).masked_fill(~allowed, NEG)
    place = torch.arange(width)
    r = random_rows(5, 3, width).masked_fill(place >= length[:, None], NEG)
    r[0, 3] = NEG
    log_d, log_longer = log_duration(family)
    found = structure_posterior(prior, r, (log_d, log_longer))
    for row in range(3):
        want = enumerate_structures(prior[row], r[row], log_d, log_longer)
        assert abs(float(found.log_evidence[row]) - want["log_z"]) < EXACT
        torch.testing.assert_close(found.p_end[row], want["p_end"], atol=EXACT, rtol=0)
        torch.testing.assert_close(found.p_boundary[row], want["p_boundary"], atol=EXACT, rtol=0)
        first = want["p_first"][: found.p_first.shape[1]]
        torch.testing.assert_close(found.p_first[row], first, atol=EXACT, rtol=0)
        assert abs(float(found.p_last[row]) - want["p_last"]) < EXACT


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_no_block_evidence_leaves_the_length_posterior_alone(family):
    weights, r, _ = problem(11)
    found = structure_posterior(weights, torch.zeros_like(r), log_duration(family))
    torch.testing.assert_close(found.log_evidence, weights.logsumexp(1))
    torch.testing.assert_close(found.p_end, weights.softmax(1))


def test_fixed_duration_gives_fixed_borders():
    weights = torch.full((1, 13), NEG, dtype=torch.float64)
    weights[0, 12] = 0.0  # the text goes on past the window
    found = structure_posterior(
        weights, torch.zeros(1, 12, dtype=torch.float64), log_duration(Fixed(4))
    )
    want = torch.zeros(12, dtype=torch.float64)
    want[[3, 7, 11]] = 1.0
    torch.testing.assert_close(found.p_boundary[0], want)


def test_single_precision_agrees_with_double():
    weights, r, _ = problem(21)
    durations = log_duration(NegativeBinomial(2.5, 2.0, 4))
    single = structure_posterior(weights.float(), r.float(), durations)
    double = structure_posterior(weights, r, durations)
    for name in ("p_end", "p_boundary", "p_first"):
        torch.testing.assert_close(
            getattr(single, name).double(), getattr(double, name), atol=FLOAT32, rtol=FLOAT32
        )


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 7), st.sampled_from(FAMILIES))
def test_map_partition_is_the_best_of_all(seed, width, family):
    weights, r, _ = problem(seed, width=width)
    log_d, log_longer = log_duration(family)
    found = map_partition(weights, r, (log_d, log_longer), 4)
    for row in range(len(r)):
        end, cuts = enumerate_structures(weights[row], r[row], log_d, log_longer)["best"]
        want = [*cuts]
        if not cuts or cuts[-1] != end - 1:
            want.append(end - 1)
        want = (want + [want[-1]] * 4)[:4]
        assert found[row].tolist() == want
