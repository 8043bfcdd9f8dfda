import math

import pytest
import torch

from probcomp.decoding.length import NEG, LengthPrior
from probcomp.errors import InputError


def test_constant_hazard_is_the_geometric_law():
    log_end = LengthPrior.constant(4.0).log_end(torch.tensor([6]), 6)[0]
    want = [math.log(0.25 * 0.75**k) for k in range(6)] + [6 * math.log(0.75)]
    assert log_end.tolist() == pytest.approx(want)
    assert float(log_end.exp().sum()) == pytest.approx(1.0)


def test_rows_with_short_windows_keep_their_mass_in_place():
    log_end = LengthPrior.constant(4.0).log_end(torch.tensor([2, 4]), 4)
    assert log_end.exp().sum(1).tolist() == pytest.approx([1.0, 1.0])
    assert (log_end[0, 3:] == NEG).all()
    assert float(log_end[0, 2]) == pytest.approx(2 * math.log(0.75))


def test_negative_binomial_matches_scipy():
    from scipy.stats import nbinom

    mean, shape = 20.0, 2.0
    prior = LengthPrior.negative_binomial(mean, shape, 400)
    found = prior.log_end(torch.tensor([300]), 300)[0].exp()
    want = nbinom.pmf(range(300), shape, shape / (shape + mean))
    assert found[:300].tolist() == pytest.approx(want.tolist(), rel=1e-6)
    assert float((found * torch.arange(301)).sum()) == pytest.approx(mean, abs=1e-3)


def test_bins_are_piecewise_constant():
    prior = LengthPrior.from_bins((0, 2, 5), (0.1, 0.5))
    assert prior.table(7).tolist() == pytest.approx([0.1, 0.1, 0.5, 0.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    "make",
    [
        lambda: LengthPrior(()),
        lambda: LengthPrior((1.5,)),
        lambda: LengthPrior.constant(0.5),
        lambda: LengthPrior.negative_binomial(-1.0, 2.0),
        lambda: LengthPrior.from_bins((0, 5, 3), (0.1, 0.2)),
    ],
)
def test_bad_priors_are_refused(make):
    with pytest.raises(InputError):
        make()
