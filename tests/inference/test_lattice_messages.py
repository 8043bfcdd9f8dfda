"""Sweeps in odds against the textbook update, and starts that do not fit."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.lattice_messages import Messages
from probcomp.inference.supports import marginals
from probcomp.priors import Lattice


def draws(count: int, *shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def test_naive_log_odds_messages_reach_the_same_fixed_point() -> None:
    """Against the textbook update in log-odds, written with loops over sites."""
    prior, evidence = Lattice(0.3, 0.9), draws(1, 4, 5)[0]
    base = prior.site_field(evidence) + evidence
    sites = [(i, j) for i in range(4) for j in range(5)]
    steps = ((0, 1), (0, -1), (1, 0), (-1, 0))
    near = {
        s: [(s[0] + a, s[1] + b) for a, b in steps if (s[0] + a, s[1] + b) in sites] for s in sites
    }
    message = {(s, n): 0.0 for s in sites for n in near[s]}
    for _ in range(200):
        new = {}
        for s, n in message:
            theta = float(base[s]) + sum(message[k, s] for k in near[s] if k != n)
            t = torch.tensor([theta, theta + 0.9], dtype=torch.float64)
            off, on = torch.nn.functional.softplus(t).tolist()
            new[s, n] = on - off
        message = new
    belief = [float(base[s]) + sum(message[k, s] for k in near[s]) for s in sites]
    found = marginals(prior, evidence, method="loopy", tolerance=1e-13, max_iterations=1000)
    expected = torch.tensor(belief, dtype=torch.float64).view(4, 5)
    torch.testing.assert_close(found.log_odds, expected, rtol=0, atol=1e-11)


def test_a_warm_start_of_another_shape_is_refused() -> None:
    state = marginals(Lattice(0.0, 1.0), torch.zeros(13, 14)).state
    assert isinstance(state, Messages)
    with pytest.raises(InputError, match="change of shape"):
        marginals(Lattice(0.0, 1.0), torch.zeros(14, 14), start=state)
