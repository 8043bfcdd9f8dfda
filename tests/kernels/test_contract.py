"""Every CPU backend inherits the contract that an extension must meet."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.kernels import cpp, masked_linear, pack
from probcomp.testing.kernels import KernelContract


class Backend(KernelContract):
    backend = "dense"

    def run(self, x, weight, support, bias):
        packed = pack(weight, support, block=self.block, format="blocks", bias=bias)
        return masked_linear(x, packed, backend=self.backend)


class TestDense(Backend):
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    isolates = False
    batch_invariant = False  # the vendor's library picks its tiles by batch size


class TestGather(Backend):
    backend = "gather"
    dtypes = (torch.float32, torch.float64, torch.bfloat16)
    batch_invariant = False


class TestPanels(Backend):
    backend = "panels"
    block = (32, 16)
    dtypes = (torch.float32, torch.float64)
    batch_invariant = False


class TestCpp(Backend):
    backend = "cpp"
    block = (32, 16)

    @pytest.fixture(autouse=True)
    def built(self) -> None:
        try:
            cpp.build()
        except InputError as error:
            pytest.skip(str(error))


class Wrong(Backend):
    """Forgets the last input."""

    def run(self, x, weight, support, bias):
        support = support.clone()
        support[:, -1] = False
        return super().run(x, weight, support, bias)


def test_the_contract_fails_a_kernel_that_is_wrong() -> None:
    with pytest.raises(AssertionError):
        Wrong().test_it_is_the_masked_product((40, 33, 17), 1.0)
