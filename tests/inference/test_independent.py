"""Independent supports."""

import torch

from probcomp.inference.supports import marginals
from probcomp.priors import Independent


def test_closed_form_with_a_density_of_each_site() -> None:
    density = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    evidence = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)
    result = marginals(Independent(density), evidence)
    weight = density * evidence.exp()
    torch.testing.assert_close(result.probability, weight / (weight + 1 - density))
    torch.testing.assert_close(result.log_z, (weight + 1 - density).log().sum(-1))
