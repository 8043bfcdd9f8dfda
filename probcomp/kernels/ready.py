"""Calls that are decided: what a frozen packed weight runs on a CPU, found again by one look-up.

Between two large products the caches hold weights, and Python's own work runs cold: deciding anew
was measured at 75 microseconds a call, where a loop of it alone takes 15; at one row that is half
of a product by 3072 x 768. So what was decided for a batch size is kept, with everything that the
decision rests on, and the next call compares and runs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probcomp.kernels.watching import unwatched

Run = Callable[[Tensor], Tensor]
"""A product that is decided: x ``[M, K]`` to ``[M, N]``."""
_forgotten = 0


class Call(NamedTuple):
    """A decided call, and the tensors that it reads with their state then."""

    run: Run
    value: Tensor
    bias: Tensor | None
    scale: Tensor | None
    state: tuple[int, ...]
    memory: tuple[Tensor, ...]  # held, so that no other tensor is given its address meanwhile


class Calls(dict[tuple[Any, ...], Call]):
    """The decided calls of one weight. Copies and pickles of its owner decide for themselves."""

    def __deepcopy__(self, memo: Any) -> "Calls":
        return Calls()

    def __reduce__(self) -> tuple[Any, ...]:
        return (Calls, ())


def forget_calls() -> None:
    """Let every weight decide anew, since what backends exist or how fast they are has changed."""
    global _forgotten
    _forgotten += 1


def learns(x: Tensor, value: Tensor, bias: Tensor | None) -> bool:
    """Whether a product of these is to be differentiated."""
    return torch.is_grad_enabled() and (
        x.requires_grad or value.requires_grad or (bias is not None and bias.requires_grad)
    )


def remember(
    calls: Calls, run: Run, x: Tensor, value: Tensor, bias: Tensor | None, scale: Tensor | None,
    activation: str, backend: str,
) -> None:  # fmt: skip
    """Keep ``run`` as what a call with an input ``[M, K]`` of this kind does."""
    state = _state(value, bias, scale)
    # A weight that was written to leaves its old copies here: they go with the first new call.
    if any(call.state != state for call in list(calls.values())):  # threads may add
        calls.clear()
    memory = tuple(t.detach() for t in (value, bias, scale) if t is not None)
    key = _key(x.shape[0], x.dtype, activation, backend)
    calls[key] = Call(run, value, bias, scale, state, memory)


def call_again(
    calls: Calls, x: Tensor, value: Tensor, bias: Tensor | None, scale: Tensor | None,
    activation: str, backend: str, shape: tuple[int, int],
) -> Tensor | None:  # fmt: skip
    """The product as it was decided for such an input before; None where that does not hold.

    The environment's choice of a backend is not looked at again once a call is decided.

    Args:
        calls: Of the weight.
        x: ``[..., K]``.
        value: The tensor of the weight's values.
        bias: Its bias.
        scale: Its scales, of int8 blocks.
        activation, backend: As asked for.
        shape: ``(N, K)``.
    """
    if not unwatched(x) or not calls:
        return None
    sizes = x.shape
    flat = len(sizes) == 2
    if not sizes or sizes[-1] != shape[1] or not x.is_cpu:
        return None
    rows = sizes[0] if flat else x.numel() // shape[1]
    call = calls.get(_key(rows, x.dtype, activation, backend))
    if call is None or call.value is not value or call.bias is not bias:
        return None
    if call.scale is not scale or call.state != _state(value, bias, scale):
        return None
    if learns(x, value, bias):
        return None
    return call.run(x) if flat else call.run(x.reshape(-1, shape[1])).view(*sizes[:-1], shape[0])


def shared_rows(rows: int) -> int:
    """The largest batch that shares a call with this one: the next power of two."""
    return 1 << (rows - 1).bit_length() if rows else 0


def _key(rows: int, dtype: torch.dtype, activation: str, backend: str) -> tuple[Any, ...]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    shared = (rows - 1).bit_length() if rows else -1
    return shared, dtype, activation, backend, torch.get_num_threads(), deterministic


def _state(value: Tensor, bias: Tensor | None, scale: Tensor | None) -> tuple[int, ...]:
    """How often tensors were written to or choices forgotten, in all, and where the tensors lie."""
    changes = _forgotten if value.is_inference() else _forgotten + value._version
    state: tuple[int, ...] = (value.data_ptr(),)
    for other in (bias, scale):
        if other is not None:
            changes += 0 if other.is_inference() else other._version
            state = (*state, other.data_ptr())
    return (changes, *state)
