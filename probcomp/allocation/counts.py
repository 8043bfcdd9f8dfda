"""What each weight costs: one stored value, and the multiplications it takes part in."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.allocation.products import count_products
from probcomp.errors import InputError
from probcomp.evidence.collect import evaluating


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one sample, in products and convolutions.

    Attributes:
        uses: Parameter name to those that each of its weights takes part in, on average.
        others: Those in which no weight takes part, as in attention.
        unseen: Matrices that were read by something else, and by what: their work is not counted.
        idle: Matrices that nothing read, as of an expert that no sample was sent to.
    """

    uses: Mapping[str, float]
    others: float
    unseen: Mapping[str, tuple[str, ...]]
    idle: tuple[str, ...] = ()

    def of(self, model: nn.Module) -> float:
        """Those with weights that are not zero, over all parameters of the model counted."""
        values = dict(model.named_parameters())
        return sum(use * int(values[name].count_nonzero()) for name, use in self.uses.items())


def macs_of(model: nn.Module, run: Callable[[nn.Module], Any], samples: int) -> Macs:
    """Count what a model multiplies for one sample.

    A weight of a linear layer is used once for each position that the layer is applied to, one of a
    convolution once for each output position (a transposed one: input position), and one of experts
    in one tensor [experts, ...] for each position that is sent to it, taken evenly over the
    experts. A weight that two layers share is used by both; looking up a row of a table is no
    multiplication, nor is work element by element counted (norms, activations).

    Args:
        model: Any module; it is run once, without gradients, in evaluation mode.
        run: Runs the model on a batch, as in ``lambda m: m(x)``.
        samples: Samples in that batch.
    """
    with evaluating(model):
        found = count_products(model, run)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    uses = {n: found.weights[n] / shapes[n].numel() / samples for n in shapes if n in found.weights}
    rest = [n for n, s in shapes.items() if n not in uses and sum(side > 1 for side in s) > 1]
    unseen = {n: tuple(sorted(found.readers[n])) for n in rest if n in found.readers}
    idle = tuple(n for n in rest if n not in found.touched)
    return Macs(uses, found.others / samples, unseen, idle)


def weight_macs(
    model: nn.Module, run: Callable[[nn.Module], Any], samples: int
) -> dict[str, float]:
    """Multiply-accumulates of one sample that each weight takes part in; see `macs_of`.

    Returns:
        Parameter name of each weight in a product to its count for one sample.
    """
    return dict(macs_of(model, run, samples).uses)


def check_finite(named: Iterable[tuple[str, Tensor]], what: str) -> None:
    """Raise `InputError` that names the first tensor with NaN or infinities."""
    for name, tensor in named:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{what} {name} holds NaN or infinite values")
