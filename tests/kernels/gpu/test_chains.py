"""What a launch of the chain kernel passes."""

import pytest
import torch

from probcomp.kernels.gpu import chains
from tests.kernels.gpu.recorder import covered, record


@pytest.mark.parametrize("length", [2, 3, 64, 700])
def test_chains_side_by_side_are_read_together(length: int, monkeypatch) -> None:
    seen = record(monkeypatch, chains, "chain_messages")
    base = torch.randn(length, 37)
    out = chains.launch(base, torch.ones(37), False)
    assert out.shape == base.shape
    assert (seen.sent["BT"], seen.sent["BC"]) == (min(64, 1 << (length - 1).bit_length()), 16)
    assert covered(seen.grid[0], 16, 37)
    assert (seen.sent["stride_t"], seen.sent["stride_c"]) == (37, 1)
    assert not seen.sent["REVERSE"]


def test_chains_that_lie_apart_have_a_program_each(monkeypatch) -> None:
    seen = record(monkeypatch, chains, "chain_messages", gaps=True)
    base = torch.randn(5, 600).t()  # as the rows of a lattice are walked
    chains.launch(base, torch.ones(5), True)
    assert seen.sent["base_ptr"] is base  # no copy
    assert seen.grid == (5,)
    assert (seen.sent["BT"], seen.sent["BC"]) == (512, 1)
    assert (seen.sent["stride_t"], seen.sent["stride_c"]) == (1, 600)
    assert seen.sent["REVERSE"]
    assert (seen.sent["out_t"], seen.sent["out_c"]) == (5, 1)


def test_a_single_site_receives_nothing_and_no_kernel_runs(monkeypatch) -> None:
    seen = record(monkeypatch, chains, "chain_messages")
    assert not chains.launch(torch.ones(1, 4), torch.ones(4), False).any()
    assert chains.launch(torch.ones(4, 0), torch.ones(0), False).shape == (4, 0)
    assert not seen.launches


def test_the_limit_has_an_inverse_in_float32() -> None:
    assert torch.tensor(chains.LIMIT).exp().reciprocal() > torch.finfo(torch.float32).tiny
