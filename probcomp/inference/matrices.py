r"""One view of linear layers and convolutions: a matrix that multiplies rows of inputs.

.. math:: y_t = W x_t, \qquad W \in R^{d_o \times d_i}

A convolution has one row ``t`` for each output position and ``d_i = c_in * kernel``, with the
kernel's positions of one input channel next to each other, as ``weight.flatten(1)`` puts them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from probcomp.errors import InputError


@dataclass(frozen=True)
class Matrix:
    """How the weight of one module is read as a matrix.

    Attributes:
        module: Path of the module in its model.
        kind: ``linear`` (weight [out, in]), ``conv1d_hf`` (the transposed linear layer of GPT-2,
            weight [in, out]) or ``conv`` (weight [out, in, ...]).
        kernel: Positions of a convolution's kernel; 1 for linear layers.
        decoder: Whether rows are tokens of the decoder's text in a model with an encoder too.
    """

    module: str
    kind: str
    kernel: int = 1
    decoder: bool = False

    @property
    def input_dim(self) -> int:
        """The dimension of the weight that runs over inputs."""
        return 0 if self.kind == "conv1d_hf" else 1

    def of(self, weight: Tensor) -> Tensor:
        """The weight as a matrix [out, inputs]."""
        if self.kind == "conv1d_hf":
            return weight.T
        return weight.flatten(1)

    def back(self, matrix: Tensor, like: Tensor) -> Tensor:
        """The inverse of `of`: a matrix [out, inputs] in the shape and type of ``like``."""
        value = matrix.T if self.kind == "conv1d_hf" else matrix.reshape(like.shape)
        return value.to(like)

    def columns(self, index: Tensor) -> Tensor:
        """Columns of the matrix, [units, k * kernel], for positions [units, k] of the inputs."""
        offsets = torch.arange(self.kernel)
        return (index[:, :, None] * self.kernel + offsets).flatten(1)

    def rows(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """The module's input as rows [batch, positions, inputs]."""
        if self.kind != "conv":
            shape = inputs.shape
            return inputs.reshape(shape[0] if inputs.dim() > 1 else 1, -1, shape[-1])
        return _unfold(module, inputs).transpose(1, 2)

    def outputs(self, output: Tensor) -> Tensor:
        """The module's output as rows [batch, positions, out]."""
        if self.kind != "conv":
            shape = output.shape
            return output.reshape(shape[0] if output.dim() > 1 else 1, -1, shape[-1])
        return output.flatten(2).transpose(1, 2)


def matrix_of(module: nn.Module, path: str) -> Matrix | str:
    """The matrix view of a module, or the reason why it has none."""
    if isinstance(module, nn.Linear):
        return Matrix(path, "linear")
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return Matrix(path, "conv1d_hf")
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        if module.groups != 1:
            return f"{path} is a grouped convolution"
        if module.padding_mode != "zeros":
            return f"{path} pads with {module.padding_mode!r}"
        return Matrix(path, "conv", module.weight[0, 0].numel())
    return f"{path} is a {type(module).__name__}, not a linear layer or a convolution"


def produces(module: nn.Module, dim: int) -> bool:
    """Whether units along ``dim`` of this module's weight are what it gives out."""
    if isinstance(module, nn.Embedding):
        return dim == 1
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return dim == 1 and module.groups == 1
    if type(module).__name__ == "Conv1D":
        return dim == 1
    return dim == 0 and isinstance(module, nn.Linear | nn.modules.conv._ConvNd)


def given_out(model: nn.Module, parameter: nn.Parameter, dim: int) -> bool:
    """Whether units along ``dim`` of a parameter are what all modules that have it give out.

    Otherwise some module reads them, as far as is known: a shared weight may do both.
    """

    def gives(module: nn.Module, name: str) -> bool:
        if isinstance(module, nn.MultiheadAttention):  # its inner heads, from stacked projections
            return dim == 0
        return name == "weight" and produces(module, dim)

    return all(
        gives(module, name)
        for module in model.modules()
        for name, value in module.named_parameters(recurse=False, remove_duplicate=False)
        if value is parameter
    )


def _unfold(module: Any, inputs: Tensor) -> Tensor:
    """Patches [batch, c_in * kernel, positions] that the kernel meets, in any padding mode."""
    if inputs.dim() != 2 + len(module.kernel_size):
        raise InputError(
            f"a convolution was given an input of shape {tuple(inputs.shape)}; expected a batch"
        )
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    # The module's own padding in the order of F.pad; it knows "same" and every mode.
    inputs = F.pad(inputs, module._reversed_padding_repeated_twice, mode=mode)
    kernel, stride, dilation = (getattr(module, a) for a in _SIZES)
    if isinstance(module, nn.Conv1d):
        kernel, stride, dilation = ((1, *size) for size in (kernel, stride, dilation))
        inputs = inputs.unsqueeze(2)
    return F.unfold(inputs, kernel, dilation, 0, stride)


_SIZES = ("kernel_size", "stride", "dilation")
