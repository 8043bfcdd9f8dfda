import math

import pytest
import torch
from sklearn.isotonic import IsotonicRegression

from probcomp.decoding.calibrating.confidence import (
    SURE_ENTROPY,
    Watched,
    calibration_error,
    choose_curve,
    fit_error_curve,
    fit_errors,
    fit_line,
    log_losses,
)
from probcomp.decoding.committing import expected_error


def draws(n, seed, law):
    generator = torch.Generator().manual_seed(seed)
    c = torch.rand(n, generator=generator) * 0.7 + 0.299
    return c, torch.rand(n, generator=generator) < law(c)


def watched(n, seed, law, doubt=1.0):
    c, wrong = draws(n, seed, law)
    return Watched(c, wrong, torch.full((n,), doubt))


def test_the_curve_falls_and_follows_the_truth():
    def law(c):
        return (1 - c) ** 2  # under-confident: wrong less often than it says

    c, wrong = draws(20000, 0, law)
    curve = fit_error_curve(c, wrong)
    assert [b for _, b in curve] == sorted((b for _, b in curve), reverse=True)
    at = torch.tensor([0.4, 0.6, 0.8, 0.95], dtype=torch.float64)
    # 20,000 pairs in 24 bins: a standard error of at most 0.017, and the chords of a convex law.
    torch.testing.assert_close(expected_error(at, 1.0, curve), law(at), atol=0.03, rtol=0)
    held, missed = draws(20000, 1, law)
    before = calibration_error(1 - held, missed)
    assert calibration_error(expected_error(held, 1.0, curve), missed) < 0.1 * before


def test_it_is_isotonic_regression_on_bins():
    c, wrong = draws(20000, 2, lambda c: 1 - c)
    curve = fit_error_curve(c, wrong)
    other = IsotonicRegression(increasing=False).fit(c.numpy(), wrong.double().numpy())
    gap = expected_error(c.double(), 1.0, curve) - torch.from_numpy(other.predict(c.numpy()))
    # Steps of single pairs against chords between 24 bins: 0.7 / 24 of slope one, and noise.
    assert float(gap.abs().mean()) < 0.02


def test_past_the_last_knot_a_surer_token_is_not_charged_more():
    curve = ((0.5, 0.5), (0.9, 0.02))
    at = torch.tensor([0.2, 0.9, 0.99, 0.999], dtype=torch.float64)
    found = expected_error(at, 1.0, curve)
    torch.testing.assert_close(found, torch.tensor([0.5, 0.02, 0.01, 0.001], dtype=torch.float64))
    assert float(expected_error(at, 1.0, ((0.5, 0.1),))[0]) == pytest.approx(0.1)


def test_a_line_is_a_logistic_regression_and_reaches_past_the_data():
    def law(c):
        return torch.sigmoid(-1.0 + 1.5 * torch.logit(1 - c))

    c, wrong = draws(20000, 3, law)
    curve = fit_line(c, wrong)
    at = torch.tensor([0.4, 0.7, 0.9], dtype=torch.float64)
    torch.testing.assert_close(expected_error(at, 1.0, curve), law(at), atol=0.02, rtol=0)
    far = torch.tensor([0.99999], dtype=torch.float64)
    assert float(expected_error(far, 1.0, curve)) == pytest.approx(float(law(far)), rel=0.5)


def test_doubt_that_says_nothing_gives_a_level_line():
    c, wrong = draws(4000, 4, lambda c: 0 * c + 0.2)
    errors = [e for _, e in fit_line(c, wrong)]
    assert errors[0] >= errors[1]
    at = torch.tensor([0.5, 0.95], dtype=torch.float64)
    assert expected_error(at, 1.0, fit_line(c, wrong)).tolist() == pytest.approx(
        [0.2, 0.2], abs=0.05
    )


@pytest.mark.parametrize(
    ("law", "knots"),
    [
        (lambda c: 1 - c, (0,)),  # right as it is
        (lambda c: torch.sigmoid(-2.0 + 2.0 * torch.logit(1 - c)), (2,)),
        (lambda c: torch.where(c > 0.6, 0.01, 0.9), range(3, 25)),  # a step is no line
    ],
)
def test_the_curve_that_explains_other_pairs_best_is_kept(law, knots):
    curve = choose_curve(watched(20000, 5, law), watched(20000, 6, law))
    if knots == (0,):  # a line may win by a hair: it must then say the same
        at = torch.linspace(0.3, 0.99, 20, dtype=torch.float64)
        torch.testing.assert_close(expected_error(at, 1.0, curve), 1 - at, atol=0.02, rtol=0)
    else:
        assert len(curve) in knots


def test_few_pairs_get_no_bins():
    def step(c):
        return torch.where(c > 0.6, 0.01, 0.9)

    assert len(choose_curve(watched(400, 7, step), watched(400, 8, step))) <= 2


def test_the_log_loss_is_the_surprise():
    error, wrong = torch.tensor([0.25, 0.5]), torch.tensor([True, False])
    assert log_losses(error, wrong).tolist() == pytest.approx([math.log(4), math.log(2)])
    assert bool(torch.isfinite(log_losses(torch.tensor([0.0]), torch.tensor([True]))).all())
    assert len(log_losses(torch.zeros(0), torch.zeros(0).bool())) == 0
    assert calibration_error(torch.zeros(0), torch.zeros(0).bool()) == 0.0


def test_bins_follow_errors_that_only_the_least_sure_tokens_make():
    """One token in fifty is unsure and is where all errors are: the curve bends there, as the
    errors do, and what it expects is right in each range of confidence."""

    def world(seed):
        generator = torch.Generator().manual_seed(seed)
        n = 40000
        doubt = torch.rand(n, generator=generator) ** 8 * 0.5 + 1e-4  # most are all but certain
        law = torch.where(doubt > 0.1, 2.0 * (doubt - 0.1), torch.tensor(0.0))
        wrong = torch.rand(n, generator=generator) < law
        return Watched(1 - doubt, wrong, torch.zeros(n)), law

    (fitted, _), (chosen, _), (held, law) = world(0), world(1), world(2)
    curve = choose_curve(fitted, chosen)
    error = expected_error(held.confidence.double(), 1.0, curve)
    for low, high in ((0.0, 0.1), (0.1, 0.25), (0.25, 0.4), (0.4, 0.6)):
        on = (1 - held.confidence >= low) & (1 - held.confidence < high)
        # Knots 24 to a curve: the bend at 0.1 is cut within its bin, 8 tokens of 40,000.
        assert float(error[on].sum()) == pytest.approx(float(law[on].sum()), rel=0.15, abs=8.0)
    line = expected_error(held.confidence.double(), 1.0, fit_line(fitted.confidence, fitted.wrong))
    sure = 1 - held.confidence < 0.1
    assert float(error[sure].sum()) < 0.5 * float(line[sure].sum())


def surest(n, wrong=()):
    """Tokens of confidence 0.98 and 0.999 in turn; those at the places ``wrong`` are."""
    c = torch.tensor([0.98, 0.999]).repeat(n // 2)
    missed = torch.zeros(n, dtype=torch.bool)
    missed[list(wrong)] = True
    return c, missed


def test_no_wrong_token_lowers_the_line_and_does_not_abolish_errors():
    """1 - c promises ten wrong of a thousand and none is: fewer are expected, but not none."""
    c, wrong = surest(1000)
    error = expected_error(c.double(), 1.0, fit_line(c, wrong))
    assert 0.2 < float(error.sum()) < 3.0
    assert float((1 - c).sum()) > 10.0
    # Hardly any tokens say hardly anything.
    few = expected_error(c[:20].double(), 1.0, fit_line(c[:20], wrong[:20]))
    assert float(few.sum()) == pytest.approx(float((1 - c[:20]).sum()), rel=0.5)


def test_every_token_wrong_is_finite_too():
    c = torch.tensor([0.98, 0.999]).repeat(100)
    for _, error in fit_line(c, torch.ones(200, dtype=torch.bool)):
        assert 0 <= error <= 1
    error = expected_error(c.double(), 1.0, fit_line(c, torch.ones(200, dtype=torch.bool)))
    assert bool(torch.isfinite(error).all())
    assert float(error.mean()) > 0.5


def test_nothing_watched_gives_no_curve():
    nothing = Watched(torch.zeros(0), torch.zeros(0).bool(), torch.zeros(0))
    assert fit_line(nothing.confidence, nothing.wrong) == ()
    assert choose_curve(nothing, nothing) == ()
    options, report = fit_errors(nothing, nothing, nothing)
    assert options["error_curve"] == options["error_curve_sure"] == ()
    assert report["commits_watched"] == report["commits_wrong_sure"] == 0


def test_a_few_wrong_tokens_get_no_bins():
    """A thousand pairs and more, five of them wrong: bins would be half a wrong token each."""
    c, wrong = surest(4000, (0, 2, 4, 6, 8))
    some = Watched(c, wrong, torch.zeros(4000))
    assert len(choose_curve(some, some)) <= 2


def test_sure_rows_and_open_rows_are_fitted_apart():
    """One confidence, two error rates: each kind of row gets its own, and totals are right."""

    def world(seed):
        sure, open_ = (
            watched(4000, seed, lambda c: 0.05 * (1 - c), 0.01),
            watched(4000, seed + 50, lambda c: 1 - c, 0.9),
        )
        return sure + open_

    options, report = fit_errors(world(0), world(1), world(2))
    assert options["sure_entropy"] == SURE_ENTROPY
    held = world(2)
    for sure, name in ((True, "error_curve_sure"), (False, "error_curve")):
        part = held.part(sure)
        assert len(part.wrong) == 4000
        expected = float(expected_error(part.confidence, 1.0, options[name]).sum())
        assert expected == pytest.approx(float(part.wrong.sum()), rel=0.25)
    assert report["commits_expected_wrong_sure"] < 0.2 * report["commits_expected_wrong"]


def test_a_curve_that_is_worse_on_held_answers_is_dropped_for_its_rows_alone():
    good = watched(4000, 10, lambda c: 0.05 * (1 - c), 0.01)
    bad = watched(4000, 11, lambda c: 0.05 * (1 - c), 0.9)
    held = watched(4000, 12, lambda c: 0.05 * (1 - c), 0.01) + watched(
        4000, 13, lambda c: 1 - c, 0.9
    )
    options, report = fit_errors(good + bad, good + bad, held)
    assert options["error_curve_sure"] != ()
    assert options["error_curve"] == ()
    assert report["error_fit_kept_sure"]
    assert not report["error_fit_kept"]
