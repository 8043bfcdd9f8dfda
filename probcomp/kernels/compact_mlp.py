"""Compaction of a pair of layers: neurons that the masks made constant or unused are removed."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import pad

from probcomp.errors import InputError
from probcomp.kernels import cpp
from probcomp.kernels.activations import activation_function
from probcomp.kernels.fast_dense import frozen_linear
from probcomp.kernels.watching import unwatched

# Up to this size one call for both layers is ahead of two at every batch; beyond, weights of more
# than 8 MiB each leave the cache between rows, and oneDNN streams them better.
CHAIN_SIZE = 2**21


class _Parts(NamedTuple):
    up: Tensor  # [n, K]
    up_bias: Tensor | None  # [n]
    down: Tensor  # [D, n]
    down_bias: Tensor | None  # [D], with the outputs of constant neurons folded in
    gate: Tensor | None  # [n, K]
    gate_bias: Tensor | None  # [n]
    kept: Tensor  # int64: original neuron of each row, before padding
    activation: str


class _Call(NamedTuple):
    """Both layers as one call, and the tensors that it was made from with their state then."""

    chain: cpp.Chain
    state: list[tuple[int, int]]
    memory: list[Tensor]  # held, so that no other tensor is given its address meanwhile


class CompactMLP(_Parts):
    """Dense weights over the kept neurons only; call it to run them."""

    def __call__(self, x: Tensor) -> Tensor:
        """The MLP's output ``[..., D]`` for x ``[..., K]``, differentiable.

        Without gradients, on a CPU, both layers are one call of the C++ kernel if it is built. That
        call is kept: Python's own work is a tenth of the time of a small network.
        """
        flat = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        frozen = unwatched(x) and not self._learns(x)
        chain = self._chain(flat) if frozen else None
        if chain is not None:
            y = cpp.run_chain(flat, chain)
        else:
            product = frozen_linear if frozen else _linear
            inside = self.activation if self.gate is None else "none"
            hidden = product(flat, self.up, self.up_bias, inside)
            if self.gate is not None:
                hidden = product(flat, self.gate, self.gate_bias, self.activation) * hidden
            y = product(hidden, self.down, self.down_bias)
        return y if x.dim() == 2 else y.view(*x.shape[:-1], self.down.shape[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), tuple(self))  # a copy makes a call of its own

    def _learns(self, x: Tensor) -> bool:
        if not torch.is_grad_enabled():
            return False
        return x.requires_grad or any(isinstance(t, Tensor) and t.requires_grad for t in self)

    def _chain(self, x: Tensor) -> cpp.Chain | None:
        """The one call for x ``[M, K]``; None where it does not run it."""
        if not cpp.available() or x.dtype != torch.float32 or not x.is_cpu or not x.shape[0]:
            return None
        kept: _Call | None = self.__dict__.get("_call")
        read = [t for t in (self.up, self.down, self.up_bias, self.down_bias) if t is not None]
        state = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in read]
        if kept is None or kept.state != state:
            right = all(t.dtype == x.dtype and t.is_cpu for t in read)
            if self.gate is not None or not right or not 0 < self.up.numel() <= CHAIN_SIZE:
                return None
            layers = [cpp.dense_layer(self.up), cpp.dense_layer(self.down)]
            chain = cpp.chain(layers, [self.up_bias, self.down_bias], [self.activation, "none"])
            kept = self.__dict__["_call"] = _Call(chain, state, [t.detach() for t in read])
        return kept.chain


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """act(x W^T + b), differentiable."""
    return activation_function(activation)(functional.linear(x, weight, bias))


def compact_mlp(
    up: Tensor,
    down: Tensor,
    up_support: Tensor,
    down_support: Tensor,
    *,
    activation: str,
    up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    gate: Tensor | None = None,
    gate_support: Tensor | None = None,
    gate_bias: Tensor | None = None,
    multiple: int = 1,
) -> CompactMLP:
    r"""Remove the neurons of a (gated) MLP that its weight supports leave nothing to do.

    The masked network is y = W_d a(x) + b_d with a = act(W_u x + b_u), or, gated,
    a = act(W_g x + b_g) (W_u x + b_u). A neuron goes, exactly, when

    - no weight of its column of W_d lives: nothing reads it; or
    - its output does not depend on x: its rows are dead. It still outputs the constant
      c = act(b_u) (gated: act(b_g) b_u), so b_d becomes b_d + W_d[:, dead] c; or
    - gated, and one factor is the constant zero.

    Args:
        up, down, gate: ``[H, K]``, ``[D, H]``, ``[H, K]``.
        up_support, down_support, gate_support: bool, the shapes of the weights.
        activation: A name in `probcomp.kernels.activations.ACTIVATIONS`.
        up_bias, down_bias, gate_bias: ``[H]``, ``[D]``, ``[H]``.
        multiple: Pad the kept neurons with zero ones up to a multiple (16 suits bfloat16).

    Raises:
        InputError: Shapes do not fit, or ``gate`` comes without its support.
    """
    act = activation_function(activation)
    hidden, outputs = up.shape[0], down.shape[0]
    _check(up, down, up_support, down_support, gate, gate_support, multiple)
    zero = up.new_zeros(hidden)
    bias_up = zero if up_bias is None else up_bias
    up_dead, unread = ~up_support.any(1), ~down_support.any(0)
    if gate is None or gate_support is None:
        constant, value = up_dead, act(bias_up)
        silent = torch.zeros_like(up_dead)
    else:
        gate_value = act(zero if gate_bias is None else gate_bias)
        gate_dead = ~gate_support.any(1)
        constant, value = up_dead & gate_dead, gate_value * bias_up
        silent = (up_dead & (bias_up == 0)) | (gate_dead & (gate_value == 0))
    keep = ~(unread | constant | silent)
    fold = constant & ~unread & ~silent

    reader = torch.where(down_support, down, torch.zeros_like(down))
    shift = reader[:, fold] @ value[fold]
    if bool(fold.any()):
        down_bias = shift if down_bias is None else down_bias + shift
    kept = keep.nonzero().squeeze(1)
    extra = -kept.numel() % multiple

    def rows(weight: Tensor, support: Tensor) -> Tensor:
        return pad(torch.where(support, weight, torch.zeros_like(weight))[kept], (0, 0, 0, extra))

    def entries(bias: Tensor | None) -> Tensor | None:
        return None if bias is None else pad(bias[kept], (0, extra))

    return CompactMLP(
        up=rows(up, up_support),
        up_bias=entries(up_bias),
        down=pad(reader[:, kept], (0, extra)).view(outputs, -1),
        down_bias=down_bias,
        gate=None if gate is None or gate_support is None else rows(gate, gate_support),
        gate_bias=entries(gate_bias),
        kept=kept,
        activation=activation,
    )


def _check(
    up: Tensor,
    down: Tensor,
    up_support: Tensor,
    down_support: Tensor,
    gate: Tensor | None,
    gate_support: Tensor | None,
    multiple: int,
) -> None:
    problems = []
    if down.shape[1] != up.shape[0]:
        problems.append(f"down reads {down.shape[1]} neurons but up makes {up.shape[0]}")
    if (gate is None) != (gate_support is None):
        problems.append("gate and gate_support must come together")
    pairs = [("up", up, up_support), ("down", down, down_support)]
    if gate is not None and gate_support is not None:
        pairs.append(("gate", gate, gate_support))
        if gate.shape != up.shape:
            problems.append(f"gate is {list(gate.shape)}, up is {list(up.shape)}: must be equal")
    for name, weight, support in pairs:
        if support.dtype != torch.bool or support.shape != weight.shape:
            problems.append(f"{name}_support must be bool {list(weight.shape)}")
    if multiple < 1:
        problems.append(f"multiple must be positive, got {multiple}")
    if problems:
        raise InputError("compact_mlp: " + "; ".join(problems))
