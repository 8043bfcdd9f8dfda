import pytest
import torch
from scipy.integrate import quad

from probcomp.decoding.calibrating.hazard import fit_hazard
from probcomp.decoding.length import LengthPrior


def test_evidence_is_the_integral_over_the_hazards():
    ends = torch.tensor([1, 2, 2, 3])
    fit = fit_hazard(ends, widths=(1,))
    a, b = fit.prior
    from scipy.stats import beta

    log_z = 0.0
    for d, n in ((1, 4), (2, 3), (1, 1)):
        value, _ = quad(lambda h, d=d, n=n: beta.pdf(h, a, b) * h**d * (1 - h) ** (n - d), 0, 1)
        log_z += torch.tensor(value).log().item()
    # 1e-4: quad on Beta densities that may be unbounded at 0 or 1.
    assert fit.evidence == pytest.approx(log_z, abs=1e-4)
    assert fit.hazard[:3] == pytest.approx(
        [(a + d) / (a + b + n) for d, n in ((1, 4), (2, 3), (1, 1))]
    )


def test_few_ends_of_a_smooth_law_share_one_hazard_and_a_rugged_law_keeps_its_own():
    generator = torch.Generator().manual_seed(0)
    smooth = (-50 * torch.rand(60, generator=generator).log()).long() + 1
    rugged = 3 * torch.randint(1, 9, (400,), generator=generator)
    flat, jagged = fit_hazard(smooth), fit_hazard(rugged)
    assert max(flat.hazard) < 1.5 * min(flat.hazard)
    assert jagged.width == 1
    assert jagged.hazard[2] > 20 * jagged.hazard[1]


def test_the_fitted_law_is_close_to_a_known_one():
    """Geometric ends, 4000 of them: the mean hazard within 3 standard errors."""
    generator = torch.Generator().manual_seed(1)
    u = torch.rand(4000, generator=generator)
    ends = (u.log() / torch.log(torch.tensor(0.9))).floor().long() + 1
    fit = fit_hazard(ends)
    survival = LengthPrior(fit.hazard).log_survival(20).exp()
    want = 0.9 ** torch.arange(21).double()
    error = (want * (1 - want) / 4000).sqrt()
    assert bool(((survival - want).abs() <= 3 * error + 0.01).all())


def test_bins_past_512_are_wider():
    ends = torch.arange(1, 700)
    fit = fit_hazard(ends, widths=(16,))
    assert fit.hazard[530] == fit.hazard[570]  # one bin of 64
    assert fit.hazard[500] != fit.hazard[470]
