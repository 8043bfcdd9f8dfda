"""What a kernel for masked weights must do: inherit, and say how your kernel is called."""

import pytest
import torch
from torch import Tensor

BOUNDS = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Relative to the norm of the result: a few roundings of inputs, products and output."""

SHAPES = [(1, 1, 1), (16, 16, 16), (40, 33, 17), (64, 96, 1), (31, 70, 33), (130, 48, 2)]
"""Outputs, inputs and rows; most are no multiple of any block."""


class KernelContract:
    """Tests of a masked linear product y = x (W o S)^T + b.

    A subclass implements `run`, and states what it promises. The reference gathers the live
    weights into zeros in float64, so that a NaN outside the support can not leak in.
    """

    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    block: tuple[int, int] = (16, 16)
    isolates: bool = True  # what no live block reads does not reach the output
    batch_invariant: bool = True  # a row has the same bits alone and in a batch

    def run(self, x: Tensor, weight: Tensor, support: Tensor, bias: Tensor | None) -> Tensor:
        """The kernel: x ``[M, K]``, weight and support ``[N, K]``, bias ``[N]``; ``[M, N]``."""
        raise NotImplementedError

    def support(self, n: int, k: int, density: float, seed: int = 0) -> Tensor:
        """A support that the kernel may be given: random live blocks."""
        tall, wide = self.block
        rng = torch.Generator().manual_seed(seed)
        grid = torch.rand(-(-n // tall), -(-k // wide), generator=rng) < density
        return grid.repeat_interleave(tall, 0).repeat_interleave(wide, 1)[:n, :k]

    def close(self, got: Tensor, want: Tensor, dtype: torch.dtype) -> bool:
        """Whether the result is finite and within `BOUNDS` of the reference."""
        error = (got.double() - want).norm()
        return bool(error <= BOUNDS[dtype] * want.norm() + 1e-30) and got.dtype == dtype

    @pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_it_is_the_masked_product(self, shape: tuple[int, int, int], density: float) -> None:
        n, k, m = shape
        for dtype in self.dtypes:
            x, weight, bias = _inputs(n, k, m, dtype)
            support = self.support(n, k, density)
            for added in (bias, None):
                want = _reference(x, weight, support, added)
                assert self.close(self.run(x, weight, support, added), want, dtype)

    def test_no_rows_give_no_rows(self) -> None:
        x, weight, bias = _inputs(32, 48, 0, self.dtypes[0])
        assert self.run(x, weight, self.support(32, 48, 0.5), bias).shape == (0, 32)

    def test_dead_rows_and_columns(self) -> None:
        tall, wide = self.block
        dtype = self.dtypes[0]
        x, weight, bias = _inputs(3 * tall, 3 * wide, 5, dtype)
        support = torch.ones(3 * tall, 3 * wide, dtype=torch.bool)
        support[tall : 2 * tall] = False
        support[:, wide : 2 * wide] = False
        y = self.run(x, weight, support, bias)
        assert self.close(y, _reference(x, weight, support, bias), dtype)
        assert torch.equal(y[:, tall : 2 * tall], bias[tall : 2 * tall].expand(5, tall))

    def test_dead_weights_may_hold_anything(self) -> None:
        n, k = 4 * self.block[0], 4 * self.block[1]  # some of the 16 blocks are dead
        x, weight, bias = _inputs(n, k, 4, self.dtypes[0])
        support = self.support(n, k, 0.5, seed=3)
        hostile = torch.where(support, weight, float("nan"))
        clean = self.run(x, weight, support, bias)
        assert torch.equal(self.run(x, hostile, support, bias), clean)

    def test_what_no_live_block_reads_stays_out(self) -> None:
        if not self.isolates:
            pytest.skip("this kernel multiplies dead columns by zero")
        wide = self.block[1]
        x, weight, bias = _inputs(32, 2 * wide, 4, self.dtypes[0])
        support = torch.ones(32, 2 * wide, dtype=torch.bool)
        support[:, wide:] = False
        x[:, wide] = float("nan")
        assert self.run(x, weight, support, bias).isfinite().all()

    def test_two_runs_give_the_same_bits(self) -> None:
        x, weight, bias = _inputs(64, 96, 33, self.dtypes[0])
        support = self.support(64, 96, 0.4)
        first = self.run(x, weight, support, bias)
        assert torch.equal(first, self.run(x, weight, support, bias))
        if self.batch_invariant:
            assert torch.equal(first[4:20], self.run(x[4:20], weight, support, bias))

    def test_inputs_of_any_stride(self) -> None:
        dtype = self.dtypes[0]
        wide, weight, bias = _inputs(32, 96, 8, dtype)
        weight = weight[:, :48]
        support = self.support(32, 48, 0.6)
        for x in (wide[:, :48], wide[:, ::2], wide[:1, :48].expand(8, 48)):
            want = _reference(x, weight, support, bias)
            assert self.close(self.run(x, weight, support, bias), want, dtype)


def _inputs(n: int, k: int, m: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(n * 10_007 + k * 101 + m)
    draw = (torch.randn(size, generator=rng).to(dtype) for size in ((m, k), (n, k), (n,)))
    x, weight, bias = draw
    return x, weight, bias


def _reference(x: Tensor, weight: Tensor, support: Tensor, bias: Tensor | None) -> Tensor:
    dense = torch.zeros(weight.shape, dtype=torch.float64)
    dense[support] = weight[support].double()
    y = x.double() @ dense.T
    return y if bias is None else y + bias.double()
