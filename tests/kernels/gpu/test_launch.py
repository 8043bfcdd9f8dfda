"""Which kernel runs a batch."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels import pack
from probcomp.kernels.gpu import block_forward, block_gemv, launch


@pytest.mark.parametrize(
    ("rows", "scaled", "kernel"),
    [(1, False, "gemv"), (1, True, "forward"), (2, False, "forward"), (300, False, "forward")],
)
def test_one_row_is_reduced_and_more_are_tiled(rows, scaled, kernel, monkeypatch) -> None:
    monkeypatch.setattr(block_gemv, "launch", lambda *a: "gemv")
    monkeypatch.setattr(block_forward, "launch", lambda *a: "forward")
    packed = pack(torch.ones(16, 16), torch.ones(16, 16).bool(), block=(16, 16), format="blocks")
    scale = torch.ones(1, 16) if scaled else None
    x = torch.ones(rows, 16)
    assert launch.block_linear(x, packed.val, packed.index, scale, None, 16, "none") == kernel


def test_cpu_tensors_are_refused_by_every_launcher() -> None:
    packed = pack(torch.ones(16, 16), torch.ones(16, 16).bool(), block=(16, 16), format="blocks")
    x, at = torch.ones(2, 16), packed.index
    calls = (
        lambda: launch.block_linear(x, packed.val, at, None, None, 16, "none"),
        lambda: launch.block_linear(x[:1], packed.val, at, None, None, 16, "none"),
        lambda: launch.block_backward_input(x, packed.val, at, 16),
        lambda: launch.block_backward_weight(x, x, at, (16, 16)),
        lambda: launch.run_linear(x, packed.val, at.crow, at.col),
    )
    for call in calls:
        with pytest.raises(InputError, match="needs a GPU tensor"):
            call()
