"""Pseudo-likelihood on lattices."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.pseudo import learn_lattice, neighbour_sum
from probcomp.inference.solver import Marginals
from probcomp.inference.supports import marginals
from probcomp.priors import Lattice


def certain(support: torch.Tensor) -> Marginals:
    odds = 80 * support.double() - 40
    return Marginals(odds, torch.sigmoid(odds), None, odds.sum(), odds)


def test_neighbour_sum_against_loops() -> None:
    values = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    total = neighbour_sum(values)
    for i in range(3):
        for j in range(4):
            near = [(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)]
            known = sum(values[a, b].item() for a, b in near if 0 <= a < 3 and 0 <= b < 4)
            assert total[i, j].item() == pytest.approx(known)


@pytest.mark.parametrize(("field", "coupling"), [(0.0, 0.0), (-0.6, 0.8), (0.3, 1.1)])
def test_recovers_field_and_coupling_from_exact_draws(field: float, coupling: float) -> None:
    draw = Lattice(field, coupling).sample((80, 90), generator=torch.Generator().manual_seed(1))
    found = learn_lattice(Lattice(0.0, 0.3), certain(draw), steps=20)
    # 7200 sites: standard errors about 0.03 and 0.04; the coupling is cut off at 0.
    assert found.field == pytest.approx(field, abs=0.12)
    assert found.coupling == pytest.approx(coupling, abs=0.12)


def test_a_converged_step_is_a_zero_gradient() -> None:
    draw = Lattice(-0.5, 0.7).sample((40, 40), generator=torch.Generator().manual_seed(0))
    found = learn_lattice(Lattice(0.0, 0.3), certain(draw), steps=50)
    label = draw.double()
    around = neighbour_sum(label - 0.5)
    residual = label - torch.sigmoid(found.field + found.coupling * around)
    assert abs(residual.mean().item()) < 1e-6
    assert abs((residual * around).mean().item()) < 1e-6


def test_learns_from_a_posterior() -> None:
    """Alternating with message passing on noisy observations finds clustering, and not more."""
    generator = torch.Generator().manual_seed(0)
    for coupling, low, high in ((0.0, 0.0, 0.4), (1.1, 0.6, 1.2)):
        draw = Lattice(0.0, coupling).sample((60, 60), generator=generator).double()
        noise = torch.randn(60, 60, generator=generator, dtype=torch.float64)
        evidence = (draw + 0.5 * noise - 0.5) / 0.25
        prior, state = Lattice(0.0, 0.5), None
        for _ in range(15):
            result = marginals(prior, evidence, start=state)
            prior, state = learn_lattice(prior, result, steps=1), result.state
        assert low <= prior.coupling <= high


def test_steps_are_clipped_and_the_coupling_bounded() -> None:
    draw = torch.zeros(20, 20)
    draw[:, 10:] = 1
    one = learn_lattice(Lattice(0.0, 0.0), certain(draw), steps=1, clip=0.5)
    assert one.coupling == 0.5
    many = learn_lattice(Lattice(0.0, 0.0), certain(draw), steps=20, max_coupling=1.2)
    assert many.coupling == 1.2
    apart = (torch.arange(20)[:, None] + torch.arange(20)) % 2
    assert learn_lattice(Lattice(0.0, 0.5), certain(apart), steps=20).coupling == 0


def test_field_of_each_site_moves_as_a_whole() -> None:
    field = torch.linspace(-1, 1, 25, dtype=torch.float64).view(5, 5)
    moved = learn_lattice(Lattice(field, 0.2), certain(torch.ones(5, 5)), steps=1)
    change = moved.field - field
    torch.testing.assert_close(change, change[0, 0].expand(5, 5))
    assert change[0, 0] > 0


def test_bad_requests() -> None:
    result = certain(torch.ones(3, 3))
    with pytest.raises(InputError, match="one coupling"):
        learn_lattice(Lattice(0.0, torch.tensor([0.1, 0.2])), result)
    with pytest.raises(InputError, match="steps >= 1"):
        learn_lattice(Lattice(0.0, 0.1), result, steps=0)
