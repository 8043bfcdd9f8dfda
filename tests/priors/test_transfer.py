"""The transfer matrix against brute force."""

import torch

from probcomp.priors import transfer
from probcomp.testing.enumeration import all_supports


def test_log_z_and_messages_against_enumeration() -> None:
    generator = torch.Generator().manual_seed(0)
    for rows, width in ((1, 1), (4, 3), (3, 4), (5, 1), (1, 5)):
        site = torch.randn(rows, width, generator=generator, dtype=torch.float64)
        coupling = torch.tensor(1.7, dtype=torch.float64)
        supports = all_supports(rows, width)
        pairs = (supports[:, 1:] * supports[:, :-1]).sum((-2, -1))
        pairs = pairs + (supports[..., 1:] * supports[..., :-1]).sum((-2, -1))
        score = (supports * site).sum((-2, -1)) + coupling * pairs
        strip = transfer.forward(site, coupling)
        torch.testing.assert_close(strip.log_z, torch.logsumexp(score, 0), rtol=0, atol=1e-11)


def test_kernels_equal_the_full_matrix() -> None:
    coupling = torch.tensor(-0.8, dtype=torch.float64)
    bits = transfer.states(5, torch.zeros(1, dtype=torch.float64))
    full = (coupling * (bits @ bits.T)).exp()
    strip = transfer.forward(torch.zeros(2, 5, dtype=torch.float64), coupling)
    weight = torch.rand(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(transfer.apply_kernels(strip.kernels, weight), full @ weight)


def test_extreme_fields_keep_a_finite_sum() -> None:
    site = 40 * torch.ones(6, 12, dtype=torch.float64)
    site[::2] *= -1
    strip = transfer.forward(site, torch.tensor(1.0, dtype=torch.float64))
    # Rows of ones between rows of zeros: 3 rows of 12 sites at 40 nats and 11 pairs each.
    assert abs(strip.log_z.item() - 3 * (12 * 40 + 11)) < 1e-6
