"""Independent supports with a density of their own each."""

import torch

from probcomp.priors import Independent


def test_density_of_each_site() -> None:
    density = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    support = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    expected = torch.log(torch.tensor(0.1 * 0.5 * 0.9, dtype=torch.float64))
    torch.testing.assert_close(Independent(density).log_prob(support), expected)


def test_samples_follow_a_density_of_each_site() -> None:
    density = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    seen = Independent(density).sample((20000, 3), generator=generator).double().mean(0)
    # Five standard errors: one site in 600 thousand runs.
    assert bool(((seen - density).abs() < 5 * (density * (1 - density) / 20000).sqrt()).all())


def test_log_prob_differentiates_in_the_density() -> None:
    density = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    Independent(density).log_prob(torch.tensor([1.0, 0.0], dtype=torch.float64)).backward()
    torch.testing.assert_close(density.grad, torch.tensor(1 / 0.2 - 1 / 0.8, dtype=torch.float64))
