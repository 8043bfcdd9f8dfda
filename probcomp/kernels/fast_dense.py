"""The fastest dense product on this machine: MKL, oneDNN prepacked, or our own for few rows."""

import torch
from torch import Tensor
from torch.nn import functional

from probcomp.kernels import cpp
from probcomp.kernels.derived import derived

# A oneDNN call costs some 15 microseconds more, which its faster product pays back from about this
# many multiplications on.
ONEDNN_WORK = 2**20
# Up to here the C++ kernel, whose call costs a third of that, is ahead of both on one and two
# threads; a weight of more than 8 MiB leaves the cache, and oneDNN streams it better.
OWN_ROWS, OWN_SIZE = 16, 2**21


def onednn_usable(weight: Tensor) -> bool:
    """Whether oneDNN can hold this weight prepacked: a float32 or bfloat16 matrix on a CPU."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and weight.numel() > 0
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def own_usable(x: Tensor, weight: Tensor) -> bool:
    """Whether the C++ kernel is built, runs this product and is likely to be the fastest."""
    fits = 0 < x.shape[0] <= OWN_ROWS and 0 < weight.numel() <= OWN_SIZE
    same = x.dtype == weight.dtype and x.device.type == "cpu"
    return fits and same and cpp.usable((cpp.PANEL, 1), weight.dtype, weight.device)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x W^T + b`` with W reordered once, for about this many rows, and kept."""
    rows = 1 << max(x.shape[0] - 1, 0).bit_length()

    def reorder() -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)

    packed = derived(weight, ("onednn", rows), reorder)
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def frozen_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x W^T + b`` for a weight that does not change and needs no gradient; x is ``[M, K]``."""
    if own_usable(x, weight):
        return cpp.run_chain(x, cpp.chain([cpp.dense_layer(weight)], [bias], ["none"]))
    if x.shape[0] * weight.numel() >= ONEDNN_WORK and onednn_usable(weight):
        return onednn_linear(x, weight, bias)
    return functional.linear(x, weight, bias)
