"""`masked_linear`: multiply by a packed weight, of any format, on the backend that is fastest."""

import torch
from torch import Tensor
from torch.nn import functional

from probcomp.errors import InputError
from probcomp.kernels import gather
from probcomp.kernels.activations import activation_function
from probcomp.kernels.blocks import BlockIndex, BlockWeight
from probcomp.kernels.compact import CompactWeight, compact_run
from probcomp.kernels.derived import derived
from probcomp.kernels.flops import note_counter
from probcomp.kernels.library import block_backend, block_linear, block_run, block_values
from probcomp.kernels.library_packed import (
    group_backend,
    group_dense,
    group_linear,
    group_product,
    run_backend,
    run_linear,
    run_product,
)
from probcomp.kernels.nm import GroupWeight
from probcomp.kernels.packed import PackedWeight
from probcomp.kernels.ready import Calls, Run, call_again, learns, remember, shared_rows
from probcomp.kernels.runs import RunWeight
from probcomp.kernels.watching import transformed, unwatched


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

        Under autocast the product runs in its dtype, and of a weight that does not learn one cast
        copy is kept. Under `torch.func` and in forward mode operators of PyTorch itself run, which
        can be transformed; `torch.compile` and `torch.export` see one operator.

        Without gradients the weight's values are read once and kept in the order that the backend
        likes, until they are written to. A write that PyTorch does not count is not seen: in place
        through ``.data``, or to an inference tensor. Write under `torch.no_grad` instead. The
        environment's choice of a backend is read when a batch size is first seen.
    """
    if not isinstance(packed, PackedWeight) or not isinstance(x, Tensor):
        raise InputError(
            "masked_linear takes a tensor and a packed weight from pack(), "
            f"got {type(x).__name__} and {type(packed).__name__}"
        )
    value, scale = getattr(packed, packed.value_name), getattr(packed, "scale", None)
    y = call_again(packed.calls, x, value, packed.bias, scale, activation, backend, packed.shape)
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
    if _autocast(x):
        return _cast(x, kind, t, scalars, activation, backend)
    flat = x.reshape(-1, k)
    if not torch.compiler.is_compiling() and transformed():
        return act(_composed(flat, kind, t, scalars)).view(*x.shape[:-1], n)
    learnt = learns(flat, value, bias)
    # Copies derived from the weight are kept only where it can not be about to change.
    frozen = not (torch.is_grad_enabled() and value.requires_grad)
    if frozen and not learnt and flat.shape[0] and unwatched(x):
        run = _decide(flat, kind, t, scalars, activation, backend)
        if run is not None:
            remember(calls, run, flat, value, bias, scale, activation, backend)
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
    x: Tensor, kind: type[PackedWeight], t: dict[str, Tensor], scalars: dict[str, int],
    activation: str, backend: str,
) -> Run | None:  # fmt: skip
    """What a frozen weight runs for inputs like x ``[M, K]``, M > 0; None: its operator does."""
    rows, bias, n = shared_rows(x.shape[0]), t.get("bias"), scalars["N"]
    if issubclass(kind, CompactWeight):
        places = t.get("in_index"), t.get("out_index")
        return compact_run(t["weight"], *places, bias, (n, x.shape[1]), rows, activation)
    if not x.is_cpu:
        return None
    val, scale, shape = t["val"], t.get("scale"), (n, x.shape[1])
    if issubclass(kind, RunWeight):
        where = t["ptr"], t["seg"], t["inverse"]
        name = run_backend(x, val, n, backend)
        return run_product(name, val, *where, bias, shape[1], rows, activation)
    if issubclass(kind, GroupWeight):
        pattern = scalars["n"], scalars["m"]
        name = group_backend(x, val, *pattern, backend)
        return group_product(name, val, t["code"], bias, *pattern, rows, activation)
    name = block_backend(x, val, shape, "blocks" if scale is None else "int8", True, backend)
    if name == "triton":
        return None
    at = BlockIndex(*(t[field] for field in BlockIndex._fields))
    return block_run(name, val, at, scale, bias, shape, rows, activation)


def _cast(
    x: Tensor, kind: type[PackedWeight], t: dict[str, Tensor], scalars: dict[str, int],
    activation: str, backend: str,
) -> Tensor:  # fmt: skip
    """The product in autocast's dtype. Of what does not learn, one cast copy is kept."""
    device, value = x.device.type, t[kind.value_name]
    dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        keeps = unwatched(x)

        def cast(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point() or tensor.dtype == torch.float64:
                return tensor  # as autocast leaves them
            if not keeps or (torch.is_grad_enabled() and tensor.requires_grad):
                return tensor.to(dtype)
            return derived(tensor, ("cast", dtype), lambda: _lower(tensor, dtype))

        inside = {name: cast(tensor) for name, tensor in t.items()}
        calls = derived(value, ("calls", dtype), Calls) if keeps else Calls()
        low = x if x.dtype == torch.float64 else x.to(dtype)
        held = inside[kind.value_name], inside.get("bias"), inside.get("scale")
        how, shape = (activation, backend), (scalars["N"], scalars["K"])
        y = call_again(calls, low, *held, *how, shape)
        return apply_packed(low, kind, inside, scalars, *how, calls) if y is None else y


def _lower(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # it may take part in a backward pass later
        return tensor.detach().to(dtype)


def _composed(
    x: Tensor, kind: type[PackedWeight], t: dict[str, Tensor], scalars: dict[str, int]
) -> Tensor:
    """The product of operators that PyTorch can transform: `torch.func`, forward mode."""
    bias, n = t.get("bias"), scalars["N"]
    if issubclass(kind, CompactWeight):
        return _compact(x, t["weight"], t.get("in_index"), t.get("out_index"), bias, n)
    if issubclass(kind, BlockWeight):
        bits, val = t.get("bitmap"), block_values(t["val"], t.get("scale"))
        live = val if bits is None else torch.where(bits.bool(), val, torch.zeros_like(val))
        at = BlockIndex(*(t[field] for field in BlockIndex._fields))
        y = gather.block_forward(x, live, at, n)
    elif issubclass(kind, RunWeight):
        y = gather.run_forward(x, t["val"], t["ptr"], t["seg"], t["inverse"])
    else:
        y = functional.linear(x, group_dense(t["val"], t["code"], scalars["n"], scalars["m"]))
    return y if bias is None else y + bias


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
