"""The interpreted Triton backend meets the contract."""

import torch

from tests.kernels.test_contract import Backend


class TestTriton(Backend):
    backend = "triton"
    block = (32, 32)
    dtypes = (torch.float32,)
