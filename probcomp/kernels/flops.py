"""FLOP formulas of the operators: live blocks only.

PyTorch's counter imports Triton, so the formulas are entered when a counter is there to read them,
not when this package is imported.
"""

import functools
import math
import sys
from typing import Any

import torch


def note_counter() -> None:
    """Enter the formulas once, if PyTorch's FLOP counter has been imported."""
    if not torch.compiler.is_compiling() and "torch.utils.flop_counter" in sys.modules:
        _register()


@functools.cache
def _register() -> None:
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    ops = torch.ops.probcomp
    stored = [ops.block_linear, ops.block_backward_input, ops.run_linear, ops.group_linear]
    register_flop_formula(stored)(_by_stored_weight)
    register_flop_formula(ops.block_backward_weight)(_by_output)
    register_flop_formula([ops.run_backward_input, ops.group_backward_input])(_whole)
    register_flop_formula([ops.noisy_linear, ops.noisy_block_linear])(_mean_and_variance)
    register_flop_formula(ops.gated_hidden)(_gated)
    register_flop_formula(ops.attention_forward)(_attention)
    # A counter copies the formulas when it is made; the one that is counting now was made before.
    for mode in _get_current_dispatch_mode_stack():
        known = getattr(getattr(mode, "counter", mode), "flop_registry", None)
        if known is not None:
            known.update(flop_registry)


def _by_stored_weight(x_shape: Any, val_shape: Any, *args: Any, **kwargs: Any) -> int:
    """2 M times the stored values."""
    return 2 * x_shape[0] * math.prod(val_shape)


def _by_output(grad_shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """2 M times the values of the gradient."""
    return 2 * grad_shape[0] * math.prod(out_shape)


def _whole(grad_shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """2 M N K: these expand the weight."""
    return 2 * math.prod(grad_shape) * out_shape[1]


def _mean_and_variance(x_shape: Any, mean_shape: Any, *args: Any, **kwargs: Any) -> int:
    """Two products, each of 2 M times the stored values."""
    return 4 * x_shape[0] * math.prod(mean_shape)


def _gated(
    x_shape: Any, gate_shape: Any, up: Any, gate_bias: Any, up_bias: Any, neurons: Any,
    *args: Any, **kwargs: Any,
) -> int:  # fmt: skip
    """Two products, for the neurons of the list."""
    return 4 * math.prod(x_shape) * (gate_shape[0] if neurons is None else neurons[0])


def _attention(
    query: Any, key: Any, value: Any, kv_head: Any, off: Any, blk: Any, block: Any,
    *args: Any, **kwargs: Any,
) -> int:  # fmt: skip
    """Two products of 2 D for each score, in live blocks or in all."""
    batch, heads, length, width = query
    if off is None or blk is None:
        return 4 * batch * heads * length * key[2] * width
    listed = blk[0] * (heads if off[0] == 1 else 1)
    return 4 * batch * listed * math.prod(block) * width
