"""What the launchers share: interpreter mode, precision, and launch options."""

import os
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from probcomp.errors import InputError

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def dot_precision(x: Tensor) -> str:
    """Input precision of `tl.dot`. For 16-bit inputs ``ieee`` is the one value valid everywhere."""
    if INTERPRETED or x.dtype != torch.float32:
        return "ieee"
    exact = torch.get_float32_matmul_precision() == "highest"
    return "ieee" if exact else "tf32"


def accuracy(x: Tensor) -> dict[str, Any]:
    """The constants that fix a kernel's arithmetic for this input.

    The interpreter computes on the raw bits of bfloat16, so there values are widened first; a
    float64 product must accumulate in float64 or the interpreter writes past its slots.
    """
    return {
        "ACC": tl.float64 if x.dtype == torch.float64 else tl.float32,
        "UPCAST": INTERPRETED and x.dtype == torch.bfloat16,
        "PREC": dot_precision(x),
    }


def stages_on(hip: bool, stages: int) -> int:
    """Stages for a vendor: an AMD GPU has 64 KB of shared memory, and one buffer ahead fills it."""
    return min(stages, 2) if hip else stages


def options(warps: int, stages: int) -> dict[str, Any]:
    """Launch options; fused multiply-add is asked for, since its default changes in Triton 3.10."""
    hip = torch.version.hip is not None
    chosen = {"num_warps": warps, "num_stages": stages_on(hip, stages)}
    return chosen if INTERPRETED else {**chosen, "enable_fp_fusion": True}


def output(x: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """An empty result. The interpreter truncates when it stores bfloat16, so there it is float32.

    Pass the result through `finish` after the launch.
    """
    wanted = x.dtype if dtype is None else dtype
    held = torch.float32 if INTERPRETED and wanted == torch.bfloat16 else wanted
    empty = torch.empty(shape, dtype=held, device=x.device)
    # Interpreted runs are tests: an element that no program writes must show.
    return empty.fill_(float("nan")) if INTERPRETED else empty


def finish(y: Tensor, x: Tensor) -> Tensor:
    """The result of a launch in the dtype of its input."""
    return y if y.dtype == x.dtype else y.to(x.dtype)


def rows_of(x: Tensor, width: int) -> Tensor:
    """``x`` ``[M, K]`` padded with zeros to ``width`` columns, neighbours side by side."""
    if x.shape[1] != width:
        return torch.nn.functional.pad(x, (0, width - x.shape[1]))
    return x if x.stride(1) == 1 else x.contiguous()


def check_device(x: Tensor) -> None:
    """Refuse CPU tensors outside interpreter mode, in words rather than Triton's."""
    if not INTERPRETED and x.device.type != "cuda":
        raise InputError(
            f"the Triton backend needs a GPU tensor, got one on {x.device}; use backend='auto'"
        )


def next_power(value: int) -> int:
    """The smallest power of two that is at least ``value``."""
    return 1 << max(value - 1, 0).bit_length()
