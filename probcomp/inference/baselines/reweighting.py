"""Layers that compute with a function of their weight, in place of a model's own."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from probcomp.inference.training.layers import BayesConv1d, BayesConv2d, BayesLinear

Effective = Callable[[Any], Tensor]
"""``effective(layer)``: the weight that the layer computes with in training."""


class _Reweighted:
    """Mixed in before a Bayesian class, of which only the linear map is used."""

    effective: Effective
    training: bool
    weight: nn.Parameter
    bias: nn.Parameter | None

    def forward(self, input: Tensor) -> Tensor:
        weight = self.effective(self) if self.training else self.weight
        return self.product(input, weight, self.bias)  # type: ignore[attr-defined]


class _Linear(_Reweighted, BayesLinear):  # type: ignore[misc]
    pass


class _Conv1d(_Reweighted, BayesConv1d):  # type: ignore[misc]
    pass


class _Conv2d(_Reweighted, BayesConv2d):  # type: ignore[misc]
    pass


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: _Linear,
    nn.Conv1d: _Conv1d,
    nn.Conv2d: _Conv2d,
}


def reweight(model: nn.Module, names: Sequence[str], effective: Effective) -> dict[str, Any]:
    """Let the named layers compute with ``effective(layer)`` in training, in place.

    Returns:
        Weight name to layer.
    """
    found = {}
    for name in names:
        layer: Any = model.get_submodule(name)
        layer.__class__ = _KINDS[type(layer)]
        layer.effective = effective
        found[f"{name}.weight" if name else "weight"] = layer
    return found


def undo(layers: dict[str, Any]) -> None:
    """The plain classes again."""
    for layer in layers.values():
        del layer.effective
        layer.__class__ = layer.plain
