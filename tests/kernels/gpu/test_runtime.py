"""What the launchers share."""

import pytest
import torch
import triton.language as tl

from probcomp.errors import InputError
from probcomp.kernels.gpu import runtime


def test_a_product_is_exact_unless_float32_may_be_rounded() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert runtime.dot_precision(torch.zeros(1)) == "ieee"
        torch.set_float32_matmul_precision("high")
        assert runtime.dot_precision(torch.zeros(1)) == "tf32"
        assert runtime.dot_precision(torch.zeros(1, dtype=torch.bfloat16)) == "ieee"
        assert runtime.dot_precision(torch.zeros(1, dtype=torch.float64)) == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)


def test_float64_adds_in_float64_and_only_the_interpreter_widens() -> None:
    assert runtime.accuracy(torch.zeros(1, dtype=torch.float64))["ACC"] == tl.float64
    assert runtime.accuracy(torch.zeros(1, dtype=torch.float16))["ACC"] == tl.float32
    assert not runtime.accuracy(torch.zeros(1, dtype=torch.bfloat16))["UPCAST"]


def test_launch_options_ask_for_fusion_and_spare_amd_its_small_memory() -> None:
    assert runtime.options(4, 5)["num_warps"] == 4
    assert runtime.options(4, 5)["enable_fp_fusion"] is True
    assert runtime.stages_on(True, 5) == 2
    assert runtime.stages_on(True, 1) == 1
    assert runtime.stages_on(False, 5) == 5


def test_results_have_the_input_dtype() -> None:
    x = torch.zeros(2, 3, dtype=torch.bfloat16)
    y = runtime.output(x, 2, 4)
    assert y.shape == (2, 4)
    assert y.dtype == torch.bfloat16
    assert runtime.finish(y, x) is y
    wide = runtime.output(x, 2, 4, dtype=torch.float32)
    assert wide.dtype == torch.float32
    assert runtime.finish(wide, x).dtype == torch.bfloat16


def test_rows_are_padded_and_laid_side_by_side() -> None:
    x = torch.randn(3, 5)
    padded = runtime.rows_of(x, 8)
    assert torch.equal(padded[:, :5], x)
    assert not padded[:, 5:].any()
    assert runtime.rows_of(x, 5) is x
    turned = torch.randn(5, 3).t()
    assert runtime.rows_of(turned, 5).stride(1) == 1
    assert torch.equal(runtime.rows_of(turned, 5), turned)
    sliced = torch.randn(3, 9)[:, :5]  # rows lie apart: their stride is passed, no copy is made
    assert runtime.rows_of(sliced, 5) is sliced


def test_a_cpu_tensor_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="needs a GPU tensor, got one on cpu"):
        runtime.check_device(torch.zeros(1))


def test_powers_of_two() -> None:
    assert [runtime.next_power(n) for n in (0, 1, 2, 3, 64, 65)] == [1, 1, 2, 4, 64, 128]
