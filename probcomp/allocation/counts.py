"""What each weight costs: one stored value, and the multiplications it takes part in."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.evidence.fused import Products


def weight_macs(
    model: nn.Module, run: Callable[[nn.Module], Any], samples: int
) -> dict[str, float]:
    """Multiply-accumulates of one sample that each weight takes part in, on average.

    A weight of a linear layer is used once for each position the layer is applied to; a weight of
    a convolution once for each output position, and one of experts in one tensor [experts, ...] for
    each position that is sent to it, taken evenly over the experts.

    Args:
        model: Any module; it is run once, without gradients, in evaluation mode.
        run: Runs the model on a batch, as in ``lambda m: m(x)``.
        samples: Samples in that batch.

    Returns:
        Parameter name of each weight seen to its count for one sample.
    """
    counts: dict[str, float] = {}
    handles: list[Any] = []
    names = {id(p): name for name, p in model.named_parameters()}

    def count(module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        weight = module.weight
        # Outputs of a linear layer or convolution: one multiplication by each weight of the row
        # that feeds it. A transposed convolution applies each weight once per input position.
        transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
        tensor = inputs[0] if transposed else output
        rows = weight.shape[0]
        uses = tensor.numel() / rows / samples
        name = names[id(weight)]
        counts[name] = counts.get(name, 0.0) + uses

    def count_experts(name: str, where: Any, inputs: Tensor, output: Tensor) -> Tensor:
        rows = inputs.numel() / inputs.shape[-1]
        counts[name] = counts.get(name, 0.0) + rows / len(model.get_parameter(name)) / samples
        return output

    tensors = [n for n, p in model.named_parameters() if p.dim() == 3]
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    training = model.training
    try:
        layers = [module for module in model.modules() if isinstance(module, kinds)]
        handles.extend(layer.register_forward_hook(count) for layer in layers)
        experts = Products(model, tensors, count_experts) if tensors else contextlib.nullcontext()
        with torch.no_grad(), experts:
            run(model.eval())
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    return counts


def check_finite(named: Iterable[tuple[str, Tensor]], what: str) -> None:
    """Raise `InputError` that names the first tensor with NaN or infinities."""
    for name, tensor in named:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{what} {name} holds NaN or infinite values")
