"""Compaction of a pair of layers: neurons that the masks made constant or unused are removed."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import pad

from probcomp.errors import InputError
from probcomp.kernels import cpp
from probcomp.kernels.activations import activation_function
from probcomp.kernels.derived import derived
from probcomp.kernels.fast_dense import frozen_linear
from probcomp.kernels.watching import unwatched

# Up to this size one call for both layers is ahead of two at every batch; beyond, weights of more
# than 8 MiB each leave the cache between rows, and oneDNN streams them better.
CHAIN_SIZE = 2**21


class CompactMLP(NamedTuple):
    """Dense weights over the kept neurons only; call it to run them."""

    up: Tensor  # [n, K]
    up_bias: Tensor | None  # [n]
    down: Tensor  # [D, n]
    down_bias: Tensor | None  # [D], with the outputs of constant neurons folded in
    gate: Tensor | None  # [n, K]
    gate_bias: Tensor | None  # [n]
    kept: Tensor  # int64: original neuron of each row, before padding
    activation: str

    def __call__(self, x: Tensor) -> Tensor:
        """The MLP's output ``[..., D]`` for x ``[..., K]``, differentiable.

        Without gradients, on a CPU, both layers are one call of the C++ kernel if it is built.
        """
        held = (x, self.up, self.up_bias, self.down, self.down_bias, self.gate)
        learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in held)
        product = frozen_linear if unwatched(x) and not learns else _linear
        flat = x.reshape(-1, x.shape[-1])
        if product is frozen_linear and self.gate is None and self._fits(flat):
            y = cpp.run_chain(flat, self._chain())
        else:
            inside = self.activation if self.gate is None else "none"
            hidden = product(flat, self.up, self.up_bias, inside)
            if self.gate is not None:
                hidden = product(flat, self.gate, self.gate_bias, self.activation) * hidden
            y = product(hidden, self.down, self.down_bias)
        return y.view(*x.shape[:-1], self.down.shape[0])

    def _fits(self, x: Tensor) -> bool:
        fits = x.shape[0] > 0 and 0 < self.up.numel() <= CHAIN_SIZE and x.dtype == self.up.dtype
        on_cpu = x.device.type == self.up.device.type == "cpu"
        return fits and on_cpu and cpp.usable((cpp.PANEL, 1), x.dtype, x.device)

    def _chain(self) -> cpp.Chain:
        parts = (self.up_bias, self.down, self.down_bias)
        counted = [t for t in parts if t is not None and not t.is_inference()]
        state = tuple((id(t), t._version, t.data_ptr()) for t in counted)

        def build() -> cpp.Chain:
            layers = [cpp.dense_layer(self.up), cpp.dense_layer(self.down)]
            chain = cpp.chain(layers, [self.up_bias, self.down_bias], [self.activation, "none"])
            # So that no other takes their ids or addresses.
            memory = tuple(None if t is None else t.detach() for t in parts)
            return chain._replace(held=(*chain.held, parts, memory))

        return derived(self.up, ("mlp", state, self.activation), build)


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
