import math
import warnings

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from probcomp.errors import InputError
from probcomp.inference.training.evidence import (
    CollapsedGamma,
    JointGaussian,
    Likelihood,
    PaperFactorised,
    Scale,
    Weights,
    gaussian_evidence,
    log_slab,
)

CLOSED = 1e-10  # closed form against closed form, float64
QUADRATURE = 1e-7  # adaptive quadrature
RISE = -1e-10  # rounding of a bound that cannot fall
DEMO = Scale(slab=1.0, kappa=0.01)  # a = b = a_spike = 1, b_spike = 0.01


def known(square: float) -> Weights:
    """A weight whose second moment is given; float64."""
    value = torch.tensor([math.sqrt(square)], dtype=torch.double)
    tiny = torch.full_like(value, 1e-300)
    return Weights(value, tiny, torch.ones_like(value), torch.full_like(value, 0.5))


def loose(square: float) -> Weights:
    """A weight with that mean square and some width."""
    one = torch.ones(1, dtype=torch.double)
    return Weights(math.sqrt(0.9 * square) * one, 0.1 * square * one, one, 0.5 * one)


def zero() -> torch.Tensor:
    return torch.zeros(1, dtype=torch.double)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.0, 0.01), (2.5, 0.3)])
@pytest.mark.parametrize("w", [0.0, 0.07, 1.3])
def test_collapsed_density_is_a_student_t(a: float, b: float, w: float) -> None:
    """log f - 1/2 ln 2 pi is the log-density of scale sqrt(b/a) and 2a degrees of freedom."""
    ours = float(log_slab(torch.tensor(w * w, dtype=torch.double), a, b))
    expected = stats.t.logpdf(w, 2 * a, scale=math.sqrt(b / a))
    assert ours - 0.5 * math.log(2 * math.pi) == pytest.approx(expected, abs=CLOSED)


def test_bounds_and_crossing_of_the_collapsed_evidence() -> None:
    form, spike = CollapsedGamma(), 1e-4
    scale = Scale(1.0, spike)
    at = lambda w2: float(form.update(known(w2), zero(), scale).log_odds)  # noqa: E731
    assert at(0.0) == pytest.approx(-0.5 * math.log(1 / spike), abs=CLOSED)
    assert at(1e12) == pytest.approx(math.log(1 / spike), abs=1e-6)  # a limit: the tail remains
    r = (1 / spike) ** (1 / 1.5)
    assert at(2 * (1 - r * spike) / (r - 1)) == pytest.approx(0.0, abs=CLOSED)


def test_equal_slab_and_spike_carry_no_evidence() -> None:
    """Limit: the posterior is the prior."""
    same = Scale(0.3, 1.0)
    for form in (CollapsedGamma(), JointGaussian()):
        l = form.update(loose(0.2), zero(), same).log_odds
        assert float(l) == pytest.approx(0.0, abs=CLOSED)


@pytest.mark.parametrize("w2", [0.0, 0.01, 0.5, 4.0])
def test_large_shapes_reach_the_gaussian_evidence(w2: float) -> None:
    """a, b -> inf at fixed b / a: 1/2 ln(alpha1/alpha0) + 1/2 (alpha0 - alpha1) w^2."""
    scale, shape = Scale(2.0, 0.05), 1e7
    slab, spike = 1 / 2.0, 1 / 0.1
    expected = 0.5 * math.log(slab / spike) + 0.5 * (spike - slab) * w2
    got = CollapsedGamma(shape, shape).update(known(w2), zero(), scale).log_odds
    assert float(got) == pytest.approx(expected, abs=2e-4)  # error falls as 1 / a


def test_quantiles_of_the_sampled_hierarchy_are_those_of_the_collapsed_density() -> None:
    """Precision and weight drawn one after the other, against the density without precisions."""
    rng = np.random.default_rng(0)
    rho = rng.gamma(1.0, 1 / 0.04, 200_000)
    w = rng.normal(size=rho.size) / np.sqrt(rho)

    def density(value: float) -> float:
        bound = log_slab(torch.tensor(value * value, dtype=torch.double), 1.0, 0.04)
        return math.exp(float(bound)) / math.sqrt(2 * math.pi)

    for level in (0.1, 0.25, 0.75, 0.9):
        quantile = float(np.quantile(w, level))
        mass = 0.5 + math.copysign(integrate.quad(density, 0, abs(quantile))[0], quantile)
        # Four standard errors: fails once in 16,000 runs for each quantile.
        assert mass == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / rho.size))


def test_mean_precision_is_the_posterior_mean_of_rho() -> None:
    """E[rho] for a known weight, by quadrature over rho and the two supports."""
    w, psi = 0.4, 0.7
    a, b, spike = 1.0, 1.0, 0.01

    def joint(rho: float, rate: float) -> float:
        return stats.gamma.pdf(rho, a, scale=1 / rate) * stats.norm.pdf(w, scale=rho**-0.5)

    def integral(power: int, rate: float) -> float:
        # Nearly all mass lies below 60 / (rate + w^2/2).
        top = 60 / (rate + 0.5 * w * w)
        return integrate.quad(lambda r: r**power * joint(r, rate), 0, top, limit=200)[0]

    on, off = math.exp(psi) * integral(0, b), integral(0, spike)
    mean = (math.exp(psi) * integral(1, b) + integral(1, spike)) / (on + off)
    update = CollapsedGamma().update(known(w * w), zero() + psi, DEMO)
    assert float(update.precision) == pytest.approx(mean, rel=QUADRATURE)
    assert float(torch.sigmoid(psi + update.log_odds)) == pytest.approx(on / (on + off), rel=1e-7)


def test_gaussian_evidence_is_the_ratio_of_integrals() -> None:
    cavity, linear, slab, spike = 3.0, 2.0, 0.5, 40.0

    def integral(precision: float) -> float:
        def f(w: float) -> float:
            prior = stats.norm.pdf(w, scale=precision**-0.5)
            return prior * math.exp(linear * w - 0.5 * cavity * w * w)

        return integrate.quad(f, -8, 8, epsabs=1e-12)[0]

    expected = math.log(integral(slab) / integral(spike))
    got = gaussian_evidence(
        torch.tensor(cavity, dtype=torch.double),
        torch.tensor(linear, dtype=torch.double),
        slab,
        spike,
    )
    assert float(got) == pytest.approx(expected, abs=QUADRATURE)


def test_joint_gaussian_without_data_carries_no_evidence() -> None:
    """A weight as wide as its prior: the cavity holds nothing, so neither does the evidence."""
    one = torch.ones(1, dtype=torch.double)
    weights = Weights(0 * one, 0.25 * one, 4 * one, 0.5 * one)
    l = JointGaussian().update(weights, zero(), Scale(1.0, 0.01)).log_odds
    assert float(l) == pytest.approx(0.0, abs=1e-6)  # the cavity's floor is 1e-9


def test_well_determined_counts_only_what_data_determined() -> None:
    one = torch.ones(1, dtype=torch.double)
    wide = Weights(0 * one, 0.25 * one, 4 * one, 0.5 * one)  # variance = 1 / precision
    sharp = Weights(0.3 * one, 1e-3 * one, 1e-9 * one, 0.5 * one)
    assert float(wide.determined_square) == 0.0
    assert float(sharp.determined_square) == pytest.approx(float(sharp.square), rel=1e-9)
    plain, careful = CollapsedGamma(), CollapsedGamma(well_determined=True)
    assert float(plain.update(wide, zero(), DEMO).log_odds) > 0
    floor = -0.5 * math.log(1 / DEMO.kappa)
    assert float(careful.update(wide, zero(), DEMO).log_odds) == pytest.approx(floor, abs=CLOSED)


def fixed_point(form, start: float) -> float:
    """Inclusion probability of an exactly zero weight, from a start."""
    weights, p = known(0.0), torch.tensor([start], dtype=torch.double)
    for _ in range(2000):
        now = Weights(weights.mean, weights.variance, weights.precision, p)
        p = torch.sigmoid(form.update(now, zero(), DEMO).log_odds)
    return float(p)


def test_product_form_is_bistable_and_the_collapsed_form_is_not() -> None:
    """The published product form keeps an exactly zero weight or not, by where it starts."""
    with pytest.warns(UserWarning, match="bistable"):
        form = PaperFactorised()
    assert fixed_point(form, 0.5) == pytest.approx(0.9548, abs=1e-4)
    assert fixed_point(form, 0.001) < 1e-6
    # Collapsed: l = -1/2 ln 100, so p = 1/11, from anywhere.
    for start in (0.999, 0.5, 0.001):
        assert fixed_point(CollapsedGamma(), start) == pytest.approx(1 / 11, abs=1e-12)


def product_bound(square: float, p: float, shape: float, rate: float, psi: float) -> float:
    """Evidence bound of ``q(w) q(rho) q(s)`` less the entropy of ``q(w)``; a = b = a_spike = 1."""
    mean, log_mean = shape / rate, special.digamma(shape) - math.log(rate)
    weight = 0.5 * log_mean - 0.5 * mean * square - 0.5 * math.log(2 * math.pi)
    slab, spike = -mean, math.log(0.01) - 0.01 * mean  # E ln Gamma(1, b) for b = 1 and 0.01
    chance = special.expit(psi)
    support = -special.rel_entr(p, chance) - special.rel_entr(1 - p, 1 - chance)
    entropy = stats.gamma(shape, scale=1 / rate).entropy()
    return weight + p * slab + (1 - p) * spike + support + entropy


@pytest.mark.parametrize("psi", [-2.0, 0.0, 1.5])
@pytest.mark.parametrize("square", [0.0, 0.02, 0.3, 3.0])
def test_bound_of_the_product_form_rises_for_fixed_beliefs(square: float, psi: float) -> None:
    """Each half step, of the precision and of the support, is coordinate ascent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        form = PaperFactorised()
    given = loose(square) if square else known(square)
    entropy = 0.5 * math.log(2 * math.pi * math.e * float(given.variance))
    for start in (0.999, 0.5, 0.01):
        p, last = start, -math.inf
        for _ in range(60):
            half = torch.tensor([p], dtype=torch.double)
            now = Weights(given.mean, given.variance, given.precision, half)
            update = form.update(now, zero() + psi, DEMO)
            shape, rate = 1.5, p + 0.01 * (1 - p) + 0.5 * square
            assert float(update.precision) == pytest.approx(shape / rate, rel=CLOSED)
            new = float(torch.sigmoid(psi + update.log_odds))
            for belief in (p, new):  # after the precision's half step, and after the support's
                bound = product_bound(square, belief, shape, rate, psi)
                assert bound - last >= RISE
                last = bound
            chance = special.expit(psi)
            apart = special.rel_entr(new, chance) + special.rel_entr(1 - new, 1 - chance)
            assert -update.divergence - apart == pytest.approx(last + entropy, abs=1e-9)
            p = new


def test_complex_constants_change_the_product_form() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        real, circular = PaperFactorised(), PaperFactorised(complex_constants=True)
    got = circular.update(known(0.5), zero(), DEMO)
    assert float(got.precision) == pytest.approx(2 / (0.505 + 0.5), abs=CLOSED)
    assert float(real.update(known(0.5), zero(), DEMO).precision) == pytest.approx(1.5 / 0.755)


def test_extrinsic_evidence_does_not_hold_the_prior() -> None:
    """sigma(logit p - psi) is sigma(l): psi changes the precision and never l."""
    for form in (CollapsedGamma(), JointGaussian()):
        low = form.update(loose(0.3), zero() - 4, DEMO)
        high = form.update(loose(0.3), zero() + 4, DEMO)
        assert torch.equal(low.log_odds, high.log_odds)
        assert not torch.equal(low.precision, high.precision)


def test_temperature_divides_the_evidence_and_nothing_else() -> None:
    weight, psi = loose(0.2), zero() + 0.3
    plain = CollapsedGamma().update(weight, psi, DEMO)
    warm = CollapsedGamma(temperature=2.0).update(weight, psi, DEMO)
    assert float(warm.log_odds) == pytest.approx(float(plain.log_odds) / 2, rel=CLOSED)
    # The precision that the unheated form has where the structure makes up for the difference.
    shifted = CollapsedGamma().update(weight, psi - plain.log_odds / 2, DEMO)
    assert float(warm.precision) == pytest.approx(float(shifted.precision), rel=CLOSED)
    with pytest.raises(InputError, match="temperature must be positive"):
        CollapsedGamma(temperature=0.0)


@pytest.mark.parametrize("shape", [0.0, -1.0, math.inf, math.nan])
def test_bad_shapes_are_refused(shape: float) -> None:
    with pytest.raises(InputError, match="shapes must be positive"):
        CollapsedGamma(shape)


def test_evidence_of_a_quadratic_likelihood_is_its_integral() -> None:
    """Slab over spike, each integrated over the weight on a grid in float64."""
    scale = Scale(0.5, 1e-2)
    curvature = torch.tensor([0.0, 3.0, 40.0, 40.0], dtype=torch.double)
    linear = torch.tensor([0.0, 1.0, -12.0, 30.0], dtype=torch.double)
    w = torch.linspace(-8, 8, 400_001, dtype=torch.double)
    logs = []
    for square in (scale.slab, scale.slab * scale.kappa):
        prior = -0.5 * (w.square() / square + math.log(2 * math.pi * square))
        likelihood = linear[:, None] * w - 0.5 * curvature[:, None] * w.square()
        logs.append(torch.logsumexp(prior + likelihood, -1))
    found = Likelihood(curvature, linear).evidence(scale)
    torch.testing.assert_close(found, logs[0] - logs[1], rtol=1e-6, atol=1e-6)


def test_measured_evidence_holds_for_its_own_scale_alone() -> None:
    one = torch.ones(2, dtype=torch.double)
    found = Likelihood(one, one, measured=3 * one, scale=DEMO)
    assert torch.equal(found.evidence(DEMO), 3 * one)
    for other in (Scale(DEMO.slab, 0.1), Scale(2.0, DEMO.kappa)):
        with pytest.raises(InputError, match="measured under Scale"):
            found.evidence(other)
