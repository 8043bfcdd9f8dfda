"""Evidence and moments of slab and spike against quadrature."""

import math

import pytest
import torch
from scipy import integrate, stats

from probcomp.inference.quadratic.mixture import Precisions


@pytest.mark.parametrize(("cavity", "linear"), [(0.5, 0.3), (20.0, -15.0), (1e-6, 0.0)])
def test_against_quadrature(cavity: float, linear: float) -> None:
    slab, spike, p = 2.0, 150.0, 0.3

    def moment(precision: float, power: int) -> float:
        def f(w: float) -> float:
            likelihood = math.exp(linear * w - 0.5 * cavity * w * w)
            return w**power * likelihood * stats.norm.pdf(w, scale=precision**-0.5)

        return integrate.quad(f, -8, 8, points=[0.0], epsabs=1e-13)[0]

    precisions = Precisions(
        torch.tensor(slab, dtype=torch.double), torch.tensor(spike, dtype=torch.double)
    )
    lam, eta = torch.tensor(cavity, dtype=torch.double), torch.tensor(linear, dtype=torch.double)
    z1, z0 = moment(slab, 0), moment(spike, 0)
    assert float(precisions.evidence(lam, eta)) == pytest.approx(math.log(z1 / z0), abs=1e-9)
    mean, variance = precisions.moments(lam, eta, torch.tensor(p, dtype=torch.double))
    first = p * moment(slab, 1) / z1 + (1 - p) * moment(spike, 1) / z0
    second = p * moment(slab, 2) / z1 + (1 - p) * moment(spike, 2) / z0
    assert float(mean) == pytest.approx(first, abs=1e-9)
    assert float(variance) == pytest.approx(second - first**2, abs=1e-9)
    square = precisions.slab_square(lam, eta)
    assert float(square) == pytest.approx(moment(slab, 2) / z1, abs=1e-9)
