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
    if "torch.utils.flop_counter" in sys.modules:
        _register()


@functools.cache
def _register() -> None:
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    ops = torch.ops.probcomp
    stored = [ops.block_linear, ops.block_backward_input, ops.run_linear, ops.group_linear]
    register_flop_formula(stored)(_by_stored_weight)
    register_flop_formula(ops.block_backward_weight)(_by_output)
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
