"""When a product may be called past PyTorch's dispatcher."""

import torch
from torch.overrides import BaseTorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from probcomp.kernels.watching import transformed, unwatched


class Other(torch.Tensor):
    pass


def test_a_plain_tensor_in_eager_mode_is_unwatched() -> None:
    x = torch.ones(2)
    assert unwatched(x)
    with torch.inference_mode():
        assert unwatched(x)


def test_subclasses_modes_transforms_and_tracers_watch() -> None:
    x, seen = torch.ones(2), []

    def look(x):
        seen.append(unwatched(x))
        return x * 2

    assert not unwatched(x.as_subclass(Other))
    assert not unwatched(torch.nn.Parameter(x))
    with FlopCounterMode(display=False):
        look(x)
    with torch.autocast("cpu", torch.bfloat16):
        look(x)
    with BaseTorchFunctionMode():
        look(x)
    torch.vmap(look)(x)
    torch.func.grad(lambda x: look(x).sum())(x)
    torch.jit.trace(look, x, check_trace=False)
    with torch.autograd.forward_ad.dual_level():
        look(x)
    assert seen == [False] * len(seen)
    assert len(seen) == 7


def test_transforms_and_forward_mode_are_told_from_the_rest() -> None:
    x, seen = torch.ones(2), []
    assert not transformed()
    with FlopCounterMode(display=False), torch.autocast("cpu", torch.bfloat16):
        assert not transformed()
    torch.vmap(lambda x: (seen.append(transformed()), x)[1])(x)
    with torch.autograd.forward_ad.dual_level():
        seen.append(transformed())
    assert seen == [True, True]
