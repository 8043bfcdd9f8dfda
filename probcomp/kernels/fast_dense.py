"""The fastest dense product on this machine: MKL, oneDNN prepacked, or our own for few rows."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from probcomp.kernels import cpp
from probcomp.kernels.activations import activation_function
from probcomp.kernels.derived import derived
from probcomp.kernels.ready import Run

# Measured for square weights of 128 to 768 and, on one thread, for 460 odd shapes of 16 to 4500 and
# 1 to 1024 rows. A call of oneDNN costs 12 microseconds more than MKL's, one of ours 3; a faster
# product pays that back from some number of multiplications on. MKL is good at small weights, but
# not in bfloat16, which it hands to oneDNN to be ordered anew in each call.
ONEDNN_SIZE, ONEDNN_WORK = 2**17, 2**18 + 1
ONEDNN_WORK_SMALL = 2**22 + 1  # of a smaller weight
OWN_LEAST, OWN_WORK, OWN_WORK_ONE = 2**15, 2**17, 2**18  # the last for one row
# Weights are reordered for this many rows. Measured from 1 to 512: the order for one row leaves
# them as they are, and is up to 2.7 times slower for more; the others are one and the same, and for
# one row as fast or faster. So one copy serves every batch size.
ONEDNN_ROWS = 16
# Up to here the C++ kernel, whose call costs a third of that, is ahead of both on one and two
# threads: 1.02 to 2.5 times up to 8 rows, 0.99 to 1.09 at 16 (0.85 of a larger weight), behind at
# 32. Larger was not measured.
OWN_ROWS, OWN_SIZE = 16, 2**25
OWN_FEW_ROWS, OWN_SIZE_MORE = 8, 3 * 2**20  # a weight's size for more than a few rows
# The epilogues of oneDNN: its name and algorithm of an activation.
_EPILOGUES = {
    "none": ("none", ""), "relu": ("relu", ""), "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"), "silu": ("swish", ""),
}  # fmt: skip


def onednn_usable(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether oneDNN can hold a weight prepacked: float32 or bfloat16 on a CPU."""
    return (
        device.type == "cpu"
        and dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def own_usable(rows: int, size: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the C++ kernel is built, runs ``size`` weights and is likely to be the fastest."""
    largest = OWN_SIZE if rows <= OWN_FEW_ROWS else OWN_SIZE_MORE
    work = OWN_WORK_ONE if rows <= 1 else OWN_WORK
    fits = rows <= OWN_ROWS and OWN_LEAST <= size <= largest and rows * size >= work
    return fits and cpp.usable((cpp.PANEL, 1), dtype, device)


def onednn_product(
    kept: Tensor, weight: Callable[[], Tensor], bias: Tensor | None, activation: str = "none",
    stamp: object = None,
) -> Run:  # fmt: skip
    """`dense_product` by oneDNN, with W reordered once and the activation in its epilogue."""
    # A view of a parameter is reordered by its values; nothing is learned through the copy.
    packed = derived(
        kept,
        ("onednn", stamp),
        lambda: torch.ops.mkldnn._reorder_linear_weight(weight().detach(), ONEDNN_ROWS),
    )
    name, algorithm = _EPILOGUES[activation]
    operator = torch.ops.mkldnn._linear_pointwise.default
    scalars: list[float] = []
    return lambda x: operator(x, packed, bias, name, scalars, algorithm)


def dense_product(
    kept: Tensor, weight: Callable[[], Tensor], shape: tuple[int, int], rows: int,
    dtype: torch.dtype, bias: Tensor | None, activation: str = "none", stamp: object = None,
) -> Run:  # fmt: skip
    """act(x W^T + b) for a weight that does not change and needs no gradient, as a function of x.

    Args:
        kept: The tensor that W is made from. Copies of W live as long, and until it is written to.
        weight: Gives W ``[N, K]``; asked only where there is no copy yet.
        shape: ``(N, K)``.
        rows: The largest number of rows that the function will see often.
        dtype: Of W and x.
        bias: ``[N]`` or None.
        activation: A name in `probcomp.kernels.activations.ACTIVATIONS`.
        stamp: The state of what else W is made from; another one has copies of its own.
    """
    act, size = activation_function(activation), shape[0] * shape[1]
    if own_usable(rows, size, dtype, kept.device):
        layer = derived(kept, ("own product", stamp), lambda: cpp.dense_layer(weight()))
        whole = cpp.chain([layer], [bias], [activation])
        return lambda x: cpp.run_chain(x, whole)
    least = ONEDNN_WORK if size >= ONEDNN_SIZE else ONEDNN_WORK_SMALL
    least = 1 if dtype == torch.bfloat16 else least
    if rows * size >= least and onednn_usable(dtype, kept.device):
        return onednn_product(kept, weight, bias, activation, stamp)
    copy = derived(kept, ("plain", stamp), lambda: _copy(kept, weight()))
    plain, linear = kept if copy is None else copy, functional.linear
    if activation == "none":
        return lambda x: linear(x, plain, bias)
    return lambda x: act(linear(x, plain, bias))


def _copy(kept: Tensor, weight: Tensor) -> Tensor | None:
    """W to be kept, or None where it is the tensor that it would be kept with."""
    return None if weight is kept else weight


def frozen_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none"
) -> Tensor:
    """act(x W^T + b) for a weight that does not change and needs no gradient; x is ``[M, K]``."""
    shape = (weight.shape[0], weight.shape[1])
    rows = x.shape[0] if x.dtype == weight.dtype and x.device == weight.device else 0
    return dense_product(weight, lambda: weight, shape, rows, weight.dtype, bias, activation)(x)
