"""Fits of the end against exact laws: an oracle needs no correction, a spoilt one gets it."""

import math
from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probcomp.decoding.calibrating.ends import (
    fit_beta,
    fit_end,
    fit_platt,
    log_score,
    posterior,
    prior_score,
)
from probcomp.decoding.calibrating.states import States
from probcomp.decoding.end import share_of_prior, tilted, with_prior
from probcomp.decoding.features import Features
from probcomp.decoding.length import LengthPrior


def states(law, end, length, spoil=0.0):
    """Blank canvases whose EOS marginals are the CDF of ``law`` [states, positions]."""
    n = len(end)
    width = int(length.max())
    cdf = law.cumsum(1)[:, :width]
    cdf = (1 - spoil) * cdf + spoil * torch.linspace(0, 1, width)
    zero = torch.zeros(n, width)
    features = Features(zero.long(), zero, zero.long(), zero, zero, cdf, zero)
    masked = torch.arange(width) < length[:, None]
    return States(end, length, torch.zeros(n, width, dtype=torch.long), masked, features)


def world(n, seed, spoil=0.0):
    """Ends of a law of each state's own, 2 of 24 positions likely."""
    generator = torch.Generator().manual_seed(seed)
    law = torch._standard_gamma(torch.full((n, 24), 0.1, dtype=torch.float64), generator) + 1e-9
    law = law / law.sum(1, keepdim=True)
    end = torch.multinomial(law, 1, generator=generator)[:, 0] + 1
    return states(law, end, torch.full((n,), 24), spoil), law


def test_an_exact_model_keeps_its_posterior_and_little_of_the_prior():
    full, law = world(400, 0)
    prior = LengthPrior.constant(12.0)
    fit = fit_end(full, full, prior, 4)
    assert fit.end_model == "cdf"
    assert abs(fit.end_tilt) <= 0.02
    held, law = world(400, 1)
    truth = law.gather(1, held.column[:, None]).log().mean()
    # What the mixture costs an exact model: under 0.05 nats an end.
    assert float(log_score(fit, held, prior).mean()) > float(truth) - 0.05


def noisy(n, seed, noise):
    """Ends of one law of two places, and marginals that are off by ``noise`` everywhere."""
    generator = torch.Generator().manual_seed(seed)
    law = torch.zeros(n, 24, dtype=torch.float64)
    law[:, 5], law[:, 17] = 0.6, 0.4
    end = torch.multinomial(law, 1, generator=generator)[:, 0] + 1
    full = states(law, end, torch.full((n,), 24))
    off = noise * torch.randn(n, 24, generator=generator, dtype=torch.float64)
    features = replace(full.features, eos=(full.features.eos + off).clamp(0, 1))
    return replace(full, features=features)


def test_noise_is_taken_from_marginals_that_have_it_and_no_more_than_the_answers_ask_for():
    prior = LengthPrior.constant(12.0)
    clean = noisy(500, 0, 0.0)
    assert fit_end(clean, clean, prior, 4).end_noise == 0.0
    loud = noisy(500, 1, 0.02)
    found = fit_end(loud, loud, prior, 4)
    assert 0.005 <= found.end_noise <= 0.03
    score = log_score(replace(found, end_share=()), loud, prior).mean()
    plain = log_score(replace(found, end_share=(), end_noise=0.0), loud, prior).mean()
    entropy = 0.6 * math.log(0.6) + 0.4 * math.log(0.4)
    # At least half of what the noise costs comes back.
    assert float(score - plain) > 0.5 * (entropy - float(plain)) > 0.02
    # So few answers that what the best setting gains may be chance: the least that does is taken.
    few = noisy(60, 2, 0.02)
    assert fit_end(few, few, prior, 4).end_noise < found.end_noise


def test_the_prior_s_share_is_what_was_mixed_in():
    """Three ends in ten come from the prior in place of the model's law: EM finds about that."""
    generator = torch.Generator().manual_seed(2)
    full, _ = world(1500, 3)
    prior = LengthPrior.constant(12.0)
    own = prior.log_end(torch.tensor([24]), 24).exp()[0]
    other = torch.multinomial(own, 1500, replacement=True, generator=generator) + 1
    swap = torch.rand(1500, generator=generator) < 0.3
    mixed = States(
        torch.where(swap, other, full.end), full.length, full.truth, full.masked, full.features
    )
    fit = fit_end(mixed, mixed, prior, 4)
    p = posterior(replace(fit, end_share=()), mixed, prior)
    share = float(share_of_prior(p, fit.end_share).mean())
    assert share == pytest.approx(0.3, abs=0.06)
    bare = replace(fit, end_share=())
    assert float(log_score(fit, mixed, prior).mean()) > float(log_score(bare, mixed, prior).mean())


def test_a_tilted_model_is_tilted_back():
    """Marginals that favour long answers by exp(0.1 k) are found out."""
    full, law = world(800, 4)
    leaning = law * torch.exp(0.1 * torch.arange(24))
    leaning = leaning / leaning.sum(1, keepdim=True)
    biased = states(leaning, full.end, full.length)
    fit = fit_end(biased, biased, LengthPrior.constant(12.0), 4)
    assert fit.end_tilt == pytest.approx(0.1, abs=0.03)


def test_no_tilt_is_fitted_to_the_luck_of_the_answers():
    """Exact marginals of one law: what the answers' mean length is off by chance tilts nothing."""
    law = torch.full((150, 24), 1 / 24, dtype=torch.float64)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        end = torch.multinomial(law, 1, generator=generator)[:, 0] + 1
        full = states(law, end, torch.full((150,), 24))
        means = float(end.double().mean())
        assert fit_end(full, full, LengthPrior.constant(12.0), 4).end_tilt == 0.0, means


def test_tilting_keeps_the_mass_beyond_and_moves_the_mean():
    p = torch.tensor([[0.2, 0.3, 0.1, 0.4]], dtype=torch.float64)
    found = tilted(p, 0.5, torch.tensor([3]))
    assert float(found.sum()) == pytest.approx(1.0)
    assert float(found[0, 3]) == pytest.approx(0.4)
    assert float(found[0, 0] / found[0, 2]) == pytest.approx(2.0 * torch.tensor(1.0).exp())
    assert tilted(p, 0.0, torch.tensor([3])) is p


def test_mixing_the_prior_respects_what_is_visible():
    p = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    allowed = torch.tensor([[False, True, True]])
    prior = torch.tensor([[0.5, 0.3, 0.2]]).double().log()
    found = with_prior(p, prior, allowed, torch.tensor([0.5]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.8, 0.2]], dtype=torch.float64))
    knots = ((0.0, 0.1), (1.0, 0.3))
    even = torch.full((1, 2), 0.5, dtype=torch.float64)
    assert float(share_of_prior(even, knots)) == pytest.approx(0.1 + 0.2 * 0.6931, abs=1e-4)


def test_platt_is_a_logistic_regression():
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(500, generator=generator) * 3
    y = torch.rand(500, generator=generator) < torch.sigmoid(0.5 + 0.7 * x)
    found = fit_platt(x, y)
    other = LogisticRegression(C=1e6).fit(x[:, None].numpy(), y.numpy())
    # 0.02: our weak prior pulls towards (0, 1).
    assert found[0] == pytest.approx(float(other.intercept_[0]), abs=0.02)
    assert found[1] == pytest.approx(float(other.coef_[0, 0]), abs=0.02)


def test_beta_by_moments():
    values = torch.distributions.Beta(2.0, 5.0).sample((20000,))
    a, b = fit_beta(values)
    assert a == pytest.approx(2.0, rel=0.1)
    assert b == pytest.approx(5.0, rel=0.1)
    assert fit_beta(values[:1]) == (1.0, 1.0)


def test_the_prior_s_score_knows_what_is_visible():
    full, _ = world(5, 6)
    prior = LengthPrior.constant(12.0)
    want = prior.log_end(full.length, 24).gather(1, full.column[:, None])[:, 0]
    torch.testing.assert_close(prior_score(full, prior), want)
