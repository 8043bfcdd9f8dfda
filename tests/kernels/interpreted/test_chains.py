"""The chain kernel, interpreted, against the step-by-step recursion in float64."""

import pytest
import torch

from probcomp.kernels import chain_messages, chains
from probcomp.kernels.chains import lattice_extrinsic
from tests.kernels.supports import generator

FLOAT32 = 1e-5  # nats, for base log-odds of up to 60


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (63, 17), (64, 16), (70, 3), (600, 1)])
def test_messages(shape, reverse) -> None:
    base = 8 * torch.randn(shape, generator=generator(0))
    base[0] = 60.0
    base[-1] = -60.0
    coupling = torch.randn(shape[1], generator=generator(1))
    got = chain_messages(base, coupling, reverse=reverse, backend="triton")
    want = chain_messages(base.double(), coupling.double(), reverse=reverse)
    assert (got - want).abs().max() < FLOAT32


def test_rows_of_a_lattice_are_walked_in_place() -> None:
    base = torch.randn(5, 40, generator=generator(0))
    got = chain_messages(base.t(), 0.8, backend="triton")
    assert (got - chain_messages(base.t().double(), 0.8)).abs().max() < FLOAT32


def test_float64() -> None:
    base = torch.randn(20, 2, generator=generator(0), dtype=torch.float64)
    got = chain_messages(base, 1.0, backend="triton")
    assert (got - chain_messages(base, 1.0)).abs().max() < 1e-12


def test_lattice_sweeps_reach_the_same_fixed_point() -> None:
    base = torch.randn(6, 9, generator=generator(0))
    got, converged = lattice_extrinsic(base, 0.4, backend="triton", sweeps=12)
    want, _ = lattice_extrinsic(base.double(), 0.4)
    assert converged
    assert (got - want).abs().max() < 1e-4


def test_opcheck() -> None:
    torch.library.opcheck(chains.chain_sweep, (torch.randn(5, 2), torch.randn(2), True))
