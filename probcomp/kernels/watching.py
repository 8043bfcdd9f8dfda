"""Whether a call of ours may bypass PyTorch's dispatcher, which nothing else would then see."""

import torch
from torch import Tensor


def transformed() -> bool:
    """Whether a `torch.func` transform or forward-mode differentiation looks on.

    Our operators have no rules for them, and without one a tangent would be dropped unseen.
    """
    dual = torch.autograd.forward_ad._current_level >= 0
    return dual or torch._C._are_functorch_transforms_active()


def unwatched(x: Tensor) -> bool:
    """A plain tensor in eager mode: no compiler, tracer, transform, mode or autocast looks on.

    An operator that PyTorch dispatches costs tens of microseconds in Python, more than a small
    product; what is unwatched and needs no gradient is called directly.
    """
    return (
        type(x) is Tensor
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and not transformed()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
        and not x.is_meta  # a device without autocast, and without values
        and not torch.is_autocast_enabled("cpu" if x.is_cpu else x.device.type)
    )
