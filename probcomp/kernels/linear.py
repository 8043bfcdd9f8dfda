"""`masked_linear`: multiply by a packed weight, of any format, on the backend that is fastest."""

import torch
from torch import Tensor
from torch.nn import functional

from probcomp.errors import InputError
from probcomp.kernels.activations import activation_function
from probcomp.kernels.blocks import BlockIndex, BlockWeight
from probcomp.kernels.compact import CompactWeight, compact_run
from probcomp.kernels.flops import note_counter
from probcomp.kernels.library import block_backend, block_linear, block_run
from probcomp.kernels.library_packed import group_linear, run_linear
from probcomp.kernels.nm import GroupWeight
from probcomp.kernels.packed import PackedWeight
from probcomp.kernels.ready import Calls, Run, call_again, learns, remember, shared_rows
from probcomp.kernels.runs import RunWeight
from probcomp.kernels.watching import unwatched


def masked_linear(
    x: Tensor, packed: PackedWeight, *, activation: str = "none", backend: str = "auto"
) -> Tensor:
    r"""act(x W^T + b) for a packed weight W.

    Args:
        x: ``[..., K]`` in the dtype of the packed weight (any floating dtype under autocast).
        packed: From `pack`. Its tensors may require gradients (`BlockWeight`, `CompactWeight`):
            then gradients reach live blocks and live entries only.
        activation: A name in `probcomp.kernels.activations.ACTIVATIONS`.
        backend: ``"auto"``, or a name in `probcomp.kernels.dispatch.BACKENDS`.

    Returns:
        ``[..., N]``.

    Raises:
        InputError: ``x`` does not fit, or the backend cannot run this weight here.

    Notes:
        A NaN or infinity in an input column that no live block reads does not reach the output on
        the sparse backends; on ``dense`` it meets a zero weight and gives NaN.

        Without gradients the weight's values are read once and kept in the order that the backend
        likes, until they are written to. A write that PyTorch does not count is not seen: in place
        through ``.data``, or to an inference tensor. Write under `torch.no_grad` instead. The
        environment's choice of a backend is read when a batch size is first seen.
    """
    value = getattr(packed, packed.value_name)
    y = call_again(packed.calls, x, value, packed.bias, activation, backend, packed.shape)
    if y is not None:
        return y
    sizes, calls = sizes_of(packed), packed.calls
    return apply_packed(x, type(packed), packed.tensors(), sizes, activation, backend, calls)


def sizes_of(packed: PackedWeight) -> dict[str, int]:
    """The sizes that `apply_packed` needs beside the tensors."""
    n, k = packed.shape
    scalars = {"N": n, "K": k}
    if isinstance(packed, GroupWeight):
        scalars.update(n=packed.n, m=packed.m)
    return scalars


def apply_packed(
    x: Tensor,
    kind: type[PackedWeight],
    t: dict[str, Tensor],
    scalars: dict[str, int],
    activation: str,
    backend: str,
    calls: Calls,
) -> Tensor:
    """`masked_linear` from the tensors of a format; modules call it with their own parameters.

    What it decides is kept in ``calls``, for `call_again`.
    """
    n, k = scalars["N"], scalars["K"]
    value, scale, bias = t[kind.value_name], t.get("scale"), t.get("bias")
    _check(x, k, value if scale is None else scale)
    note_counter()
    act = activation_function(activation)
    flat = x.reshape(-1, k)
    learnt = learns(flat, value, bias)
    # Copies derived from the weight are kept only where it can not be about to change.
    frozen = not (torch.is_grad_enabled() and value.requires_grad) and not _autocast(x)
    if frozen and not learnt and flat.shape[0] and unwatched(x):
        run = _decide(flat, kind, t, n, activation, backend)
        if run is not None:
            if scale is None:  # a call looks at one tensor of values
                remember(calls, run, flat, value, bias, activation, backend)
            return run(flat).view(*x.shape[:-1], n)
    # The operators have no gradient through an activation, so it is applied outside where needed.
    inside = "none" if learnt else activation
    if issubclass(kind, CompactWeight):
        y = _compact(flat, value, t.get("in_index"), t.get("out_index"), bias, n)
        inside = "none"
    elif issubclass(kind, BlockWeight):
        index, bits = [t[name] for name in BlockIndex._fields], t.get("bitmap")
        y = block_linear(flat, value, index, bits, scale, bias, n, inside, backend, frozen)
    elif issubclass(kind, RunWeight):
        y = run_linear(flat, value, t["ptr"], t["seg"], t["inverse"], bias, inside, backend)
    else:
        pattern = (scalars["n"], scalars["m"])
        y = group_linear(flat, value, t["code"], bias, *pattern, inside, backend)
    y = y if inside == activation else act(y)
    return y.view(*x.shape[:-1], n)


def _decide(
    x: Tensor, kind: type[PackedWeight], t: dict[str, Tensor], n: int, activation: str, backend: str
) -> Run | None:
    """What a frozen weight runs for inputs like x ``[M, K]``, M > 0; None: its operator does."""
    rows, bias = shared_rows(x.shape[0]), t.get("bias")
    if issubclass(kind, CompactWeight):
        places = t.get("in_index"), t.get("out_index")
        return compact_run(t["weight"], *places, bias, n, rows, activation)
    if not issubclass(kind, BlockWeight) or not x.is_cpu:
        return None
    val, scale, shape = t["val"], t.get("scale"), (n, x.shape[1])
    name = block_backend(x, val, shape, "blocks" if scale is None else "int8", True, backend)
    if name == "triton":
        return None
    at = BlockIndex(*(t[field] for field in BlockIndex._fields))
    return block_run(name, val, at, scale, bias, shape, rows, activation)


def _compact(
    x: Tensor,
    weight: Tensor,
    in_index: Tensor | None,
    out_index: Tensor | None,
    bias: Tensor | None,
    n: int,
) -> Tensor:
    """A product over kept rows and columns that may be differentiated, fused or looked at."""
    if in_index is not None:
        x = x.index_select(1, in_index)
    kept = bias if bias is None or out_index is None else bias.index_select(0, out_index)
    y = functional.linear(x, weight, kept)
    if out_index is None:
        return y
    # Rows that are dead still output their bias.
    base = y.new_zeros(n) if bias is None else bias.to(y.dtype)
    return base.expand(x.shape[0], n).index_copy(1, out_index, y)


def _autocast(x: Tensor) -> bool:
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def _check(x: Tensor, k: int, value: Tensor) -> None:
    if x.dim() < 1 or x.shape[-1] != k:
        raise InputError(f"x has shape {list(x.shape)}, expected [..., {k}]")
    if x.device != value.device:
        raise InputError(f"x is on {x.device}, the packed weight on {value.device}")
    if x.dtype != value.dtype and not (x.is_floating_point() and _autocast(x)):
        raise InputError(
            f"x is {x.dtype}, the packed weight {value.dtype}: convert one, or use autocast"
        )
