"""The hidden layer of a gated MLP over a list of live neurons."""

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn.functional import linear

from probcomp.errors import InputError, unknown
from probcomp.kernels.activations import activation_function
from probcomp.kernels.dispatch import on_triton
from probcomp.kernels.flops import note_counter


def gated_mlp_hidden(
    x: Tensor,
    gate: Tensor,
    up: Tensor,
    *,
    activation: str = "silu",
    neurons: Tensor | None = None,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""act(x W_g^T + b_g) (x W_u^T + b_u), for the neurons of a list.

    For masks that differ from call to call (members of an ensemble, sampled sub-networks). A mask
    that stays should be compacted once with `probcomp.kernels.compact_mlp`.

    Args:
        x: ``[..., K]``.
        gate, up: ``[H, K]``.
        activation: A name in `probcomp.kernels.activations.ACTIVATIONS`.
        neurons: int64 ``[h]``, the live neurons in the order of the output; all by default.
        gate_bias, up_bias: ``[H]``.
        backend: ``"auto"``, ``"torch"``, or ``"triton"`` (a GPU, without gradients).

    Returns:
        ``[..., h]``.

    Raises:
        InputError: Shapes or indices do not fit, or gradients are asked of ``"triton"``.
    """
    activation_function(activation)
    if backend not in ("auto", "torch", "triton"):
        raise unknown("gated MLP backend", backend, ("auto", "torch", "triton"))
    if gate.shape != up.shape or gate.dim() != 2 or gate.shape[1] != x.shape[-1]:
        raise InputError(
            f"gate {list(gate.shape)} and up {list(up.shape)} must both be [H, {x.shape[-1]}]"
        )
    if neurons is not None:
        if neurons.dim() != 1 or neurons.dtype != torch.int64:
            raise InputError("neurons must be int64 indices [h]")
        if neurons.numel() and not (int(neurons.min()) >= 0 and int(neurons.max()) < gate.shape[0]):
            raise InputError(f"neurons must lie in [0, {gate.shape[0]})")
    held = (x, gate, up, gate_bias, up_bias)
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in held)
    if backend == "triton" and learns:
        raise InputError("the Triton gated MLP has no gradient; use backend='torch' or no_grad")
    flat = x.reshape(-1, x.shape[-1])
    if backend == "triton" or (backend == "auto" and on_triton(x) and not learns):
        note_counter()
        y = gated_hidden(flat, gate, up, gate_bias, up_bias, neurons, activation)
    else:
        y = _torch(flat, gate, up, gate_bias, up_bias, neurons, activation)
    return y.view(*x.shape[:-1], y.shape[-1])


def _torch(
    x: Tensor, gate: Tensor, up: Tensor, gate_bias: Tensor | None, up_bias: Tensor | None,
    neurons: Tensor | None, activation: str,
) -> Tensor:  # fmt: skip
    if neurons is not None:
        gate, up = gate.index_select(0, neurons), up.index_select(0, neurons)
        gate_bias = None if gate_bias is None else gate_bias.index_select(0, neurons)
        up_bias = None if up_bias is None else up_bias.index_select(0, neurons)
    act = activation_function(activation)
    return act(linear(x, gate, gate_bias)) * linear(x, up, up_bias)


@custom_op("probcomp::gated_hidden", mutates_args=())
def gated_hidden(
    x: Tensor, gate: Tensor, up: Tensor, gate_bias: Tensor | None, up_bias: Tensor | None,
    neurons: Tensor | None, activation: str,
) -> Tensor:  # fmt: skip
    """The Triton kernel as an operator; ``[M, h]``."""
    from probcomp.kernels.gpu.gated import launch

    return launch(x, gate, up, gate_bias, up_bias, neurons, activation)


@gated_hidden.register_fake
def _(
    x: Tensor, gate: Tensor, up: Tensor, gate_bias: Tensor | None, up_bias: Tensor | None,
    neurons: Tensor | None, activation: str,
) -> Tensor:  # fmt: skip
    return x.new_empty(x.shape[0], gate.shape[0] if neurons is None else neurons.shape[0])
