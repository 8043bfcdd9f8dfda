import pytest
import torch
from scipy.stats import beta

from probcomp.decoding import end
from probcomp.decoding.length import LengthPrior
from tests.decoding.enumeration import random_rows

CLOSE = 1e-9


def test_hmm_weights_are_the_product_of_ratios():
    prior = LengthPrior.constant(4.0).log_end(torch.tensor([5]), 5)
    evidence = random_rows(1, 1, 5)
    allowed = torch.ones(1, 6, dtype=torch.bool)
    found = end.hmm_end(prior, evidence, allowed, 0.5)[0]
    raw = [float(prior[0, k] + 0.5 * evidence[0, k:].sum()) for k in range(6)]
    want = torch.tensor(raw, dtype=torch.float64).softmax(0)
    torch.testing.assert_close(found, want, atol=CLOSE, rtol=0)


def test_tail_evidence_removes_the_prior_it_contains():
    """EOS marginals equal to the prior's CDF are no evidence at all."""
    prior = LengthPrior.constant(6.0).log_end(torch.tensor([8]), 8)
    mass = prior.exp().cumsum(1)[:, :-1]
    masked = torch.ones(1, 8, dtype=torch.bool)
    found = end.tail_evidence(mass, masked, prior, intercept=0.0, slope=1.0)
    torch.testing.assert_close(found, torch.zeros_like(found), atol=CLOSE, rtol=0)
    assert (end.tail_evidence(mass, ~masked, prior, intercept=3.0, slope=1.0) == 0).all()


def test_cdf_differences_are_the_posterior():
    law = torch.tensor([[0.1, 0.0, 0.4, 0.2, 0.3]], dtype=torch.float64)
    mass = law.cumsum(1)[:, :-1]
    allowed = torch.ones(1, 5, dtype=torch.bool)
    torch.testing.assert_close(end.cdf_end(mass, allowed, torch.tensor([4])), law)


def test_cdf_is_made_monotone_and_honours_commits():
    mass = torch.tensor([[0.5, 0.3, 0.9]], dtype=torch.float64)
    found = end.cdf_end(mass, torch.ones(1, 4, dtype=torch.bool), torch.tensor([3]))
    torch.testing.assert_close(found[0], torch.tensor([0.4, 0.0, 0.5, 0.1], dtype=torch.float64))
    content = torch.tensor([[True, False, False]])
    allowed = end.allowed_ends(content, torch.zeros_like(content), torch.tensor([3]))
    found = end.cdf_end(mass, allowed, torch.tensor([3]))
    torch.testing.assert_close(
        found[0], torch.tensor([0.0, 0.0, 5 / 6, 1 / 6], dtype=torch.float64)
    )


def test_cdf_without_mass_on_what_is_allowed_falls_back_to_all_allowed():
    mass = torch.ones(1, 3, dtype=torch.float64)
    allowed = torch.tensor([[False, True, True, False]])
    found = end.cdf_end(mass, allowed, torch.tensor([3]))
    assert found[0].tolist() == [0.0, 0.5, 0.5, 0.0]


def test_eos_before_content_decides():
    content = torch.tensor([[True, False, True]])
    eos = torch.tensor([[False, True, False]])
    assert end.allowed_ends(content, eos, torch.tensor([3])).tolist() == [
        [False, True, False, False]
    ]


def test_rows_of_different_length_do_not_mix():
    mass = torch.tensor([[0.2, 0.5, 0.7, 0.9], [0.2, 0.5, 0.0, 0.0]], dtype=torch.float64)
    length = torch.tensor([4, 2])
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    both = end.cdf_end(mass, end.allowed_ends(nothing, nothing, length), length)
    alone = end.cdf_end(
        mass[1:, :2], end.allowed_ends(nothing[1:, :2], nothing[1:, :2], length[1:]), length[1:]
    )
    torch.testing.assert_close(both[1, :3], alone[0])
    assert end.tail_mean(mass, length, 2).tolist() == pytest.approx([0.8, 0.35])


def test_beyond_is_bayes_rule_with_two_beta_laws():
    found = float(
        end.beyond_probability(
            torch.tensor([0.3], dtype=torch.float64),
            torch.tensor([0.4], dtype=torch.float64),
            (1.0, 2.0),
            (8.0, 1.0),
        )
    )
    cut, fits = beta.pdf(0.3, 1, 2), beta.pdf(0.3, 8, 1)
    assert found == pytest.approx(0.4 * cut / (0.4 * cut + 0.6 * fits))


def test_beyond_mass_is_replaced_and_the_rest_rescaled():
    p_end = torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.5, 0.0]], dtype=torch.float64)
    length = torch.tensor([2, 2])
    found = end.with_beyond(p_end, length, torch.tensor([0.1, 0.7], dtype=torch.float64))
    torch.testing.assert_close(found[0], torch.tensor([0.36, 0.54, 0.1], dtype=torch.float64))
    torch.testing.assert_close(found[1], p_end[1])  # a committed EOS had ruled "beyond" out
    assert end.beyond_mass(found, length).tolist() == pytest.approx([0.1, 0.0])
