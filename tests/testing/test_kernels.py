"""The contract of kernels passes a right product and fails each kind of wrong one."""

import pytest
import torch
from torch import Tensor

from probcomp.testing.kernels import SHAPES, KernelContract


class TestPlain(KernelContract):
    """What all kernels are held to, by a product in double precision."""

    dtypes = (torch.float32, torch.float64)

    def run(self, x: Tensor, weight: Tensor, support: Tensor, bias: Tensor | None) -> Tensor:
        dense = torch.where(support, weight, 0).double()
        read = support.any(0)
        y = (
            torch.stack([dense[:, read] @ row[read].double() for row in x])
            if len(x)
            else (torch.zeros(0, len(weight), dtype=torch.float64))
        )
        return (y if bias is None else y + bias.double()).to(x.dtype)


class Wrong(TestPlain):
    """One fault at a time."""

    __test__ = False

    def __init__(self, fault: str) -> None:
        self.fault, self.calls = fault, 0

    def run(self, x: Tensor, weight: Tensor, support: Tensor, bias: Tensor | None) -> Tensor:
        self.calls += 1
        if self.fault == "no mask":
            support = torch.ones_like(support)
        if self.fault == "no bias":
            bias = None
        if self.fault == "mask by a product":
            y = x.double() @ (weight * support).double().T
            return (y if bias is None else y + bias.double()).to(x.dtype)
        if self.fault == "contiguous inputs only":
            x = torch.as_strided(x, x.shape, (x.shape[1], 1))
        y = super().run(x, weight, support, bias)
        if self.fault == "low precision":
            y = y.bfloat16().to(y.dtype)
        if self.fault == "other bits":
            y = y * (1 + 1e-6 * self.calls)
        return y.half() if self.fault == "other type" else y


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("no mask", "test_it_is_the_masked_product"),
        ("no bias", "test_it_is_the_masked_product"),
        ("low precision", "test_it_is_the_masked_product"),
        ("other type", "test_it_is_the_masked_product"),
        ("no bias", "test_dead_rows_and_columns"),
        ("no mask", "test_dead_rows_and_columns"),
        ("mask by a product", "test_dead_weights_may_hold_anything"),
        ("mask by a product", "test_what_no_live_block_reads_stays_out"),
        ("other bits", "test_two_runs_give_the_same_bits"),
        ("contiguous inputs only", "test_inputs_of_any_stride"),
    ],
)
def test_a_wrong_kernel_fails(fault: str, test: str) -> None:
    arguments = {"shape": SHAPES[2], "density": 0.3} if "masked_product" in test else {}
    getattr(TestPlain(), test)(**arguments)
    with pytest.raises(AssertionError):
        getattr(Wrong(fault), test)(**arguments)


def test_supports_are_whole_blocks_of_the_density() -> None:
    contract = KernelContract()
    contract.block = (4, 8)
    support = contract.support(40, 80, 0.3)
    blocks = support.unflatten(1, (-1, 8)).unflatten(0, (-1, 4)).movedim(2, 1).flatten(2)
    assert torch.equal(blocks.any(-1), blocks.all(-1))
    assert 0.1 < float(support.double().mean()) < 0.5
    assert torch.equal(support, contract.support(40, 80, 0.3))
    assert not torch.equal(support, contract.support(40, 80, 0.3, seed=1))
    assert contract.support(33, 70, 1.0).shape == (33, 70)
    with pytest.raises(NotImplementedError):
        contract.run(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1).bool(), None)
