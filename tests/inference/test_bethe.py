"""The Bethe value of the sum over supports."""

import pytest
import torch

from probcomp.inference.bethe import bethe_log_z, prior_log_z
from probcomp.inference.lattice_messages import Messages
from probcomp.inference.solver import Options
from probcomp.inference.supports import marginals
from probcomp.priors import Lattice


def draws(count: int, *shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def test_bethe_value_is_stationary_in_the_messages() -> None:
    prior, evidence = Lattice(0.1, 0.9), draws(1, 13, 13)[0]
    result = marginals(prior, evidence, tolerance=1e-13, max_iterations=2000)
    odds = (prior.site_field(evidence) + evidence).exp()
    gain = torch.tensor(0.9, dtype=torch.float64).exp()
    at = bethe_log_z(odds, gain, result.state).item()
    errors = []
    for size in (1e-2, 1e-3):
        moved = Messages(*(m * (1 + size) for m in result.state))
        errors.append(abs(bethe_log_z(odds, gain, moved).item() - at))
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.2)  # an error enters squared


def test_value_without_evidence_is_cached_for_numbers_and_the_same_for_tensors() -> None:
    empty = torch.zeros(15, 16, dtype=torch.float64)
    number = prior_log_z(Lattice(-0.4, 1.0), empty, Options())
    field = torch.full((15, 16), -0.4, dtype=torch.float64, requires_grad=True)
    tensor = prior_log_z(Lattice(field, 1.0), empty, Options())
    torch.testing.assert_close(number, tensor.detach(), rtol=0, atol=1e-6)
    exact = Lattice(-0.4, 1.0).log_normaliser(15, 16).item()
    # Bethe against strips: under 0.01 nats a site at this coupling.
    assert number.item() == pytest.approx(exact, abs=2.4)
    (gradient,) = torch.autograd.grad(tensor, field)
    prior = marginals(Lattice(-0.4, 1.0), empty).probability
    torch.testing.assert_close(gradient, prior, rtol=0, atol=1e-6)
