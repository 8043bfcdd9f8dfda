"""The array-library forms with NumPy standing in for JAX; the contract tests JAX itself."""

import numpy as np
import pytest
import torch

from probcomp.priors import Blocks, Chain, Independent, Lattice, SupportPrior
from probcomp.priors.traced import log_prob_in


@pytest.mark.parametrize(
    ("prior", "shape"),
    [
        (Chain(torch.tensor([0.1, 0.4]), torch.tensor([0.3, 0.6])), (5, 2, 6)),
        (Lattice(torch.linspace(-1, 1, 12).view(3, 4), 0.7), (5, 2, 3, 4)),
        (Independent(torch.tensor([0.1, 0.5, 0.9])), (5, 3)),
        (Blocks((2, 2), Lattice(0.1, torch.tensor(0.5))), (5, 3, 5)),
    ],
)
def test_tensor_parameters(prior: SupportPrior, shape: tuple[int, ...]) -> None:
    support = prior.sample(shape, generator=torch.Generator().manual_seed(0)).double()
    found = log_prob_in(prior, support.numpy(), np)
    np.testing.assert_allclose(found, prior.log_prob(support).numpy(), rtol=1e-6)
