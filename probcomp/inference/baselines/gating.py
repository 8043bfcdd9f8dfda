"""Random scales on what layers read, for any module."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.inference.baselines.places import Place
from probcomp.inference.training.layers import Noise


class Gate(nn.Module):
    """The scale variables of one place; a family of distributions is a subclass.

    Attributes:
        place: Where they sit.
        threshold: Units whose `score` is at most this are pruned by the published rule.
        each_sample: Whether each sample of a batch has a draw of its own.
    """

    threshold = 0.0
    each_sample = True

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.current: Tensor | None = None

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        """Scales for ``rows`` samples, [rows, size]."""
        raise NotImplementedError

    def mean(self) -> Tensor:
        """The scale that the deterministic network uses, [size]."""
        raise NotImplementedError

    def variance(self) -> Tensor:
        """Posterior variance of the scale, [size]; zero for a family that has none."""
        return torch.zeros_like(self.mean())

    def divergence(self) -> Tensor:
        """What the units cost, [] in nats: the divergence of posterior from prior."""
        raise NotImplementedError

    def score(self) -> Tensor:
        """How much each unit is needed, [size]; units above `threshold` stay."""
        raise NotImplementedError

    @torch.no_grad()
    def after_step(self) -> None:
        """Bring the parameters back where they may be; most families have nothing to do."""

    def scales(self, rows: int, noise: Noise) -> Tensor:
        """The draw of this step: all readers of a unit see the same scale."""
        rows = rows if self.each_sample else 1
        if self.current is None or self.current.shape[0] != rows:
            with torch.set_grad_enabled(noise.learn):
                self.current = self.draw(rows, noise.generator)
        return self.current


class Gating:
    """Hooks that multiply the inputs of layers by the gates' scales.

    In training mode the scales are drawn, in evaluation mode they are the means. Call `fresh`
    before each step, and `remove` at the end. Where the noise does not learn, the draws have no
    gradient: the first layer is then spared the product with its weights.
    """

    def __init__(self, model: nn.Module, gates: Sequence[Gate], noise: Noise) -> None:
        self.gates = tuple(gates)
        self.noise = noise
        self._handles: list[Any] = []
        by_layer: dict[str, list[tuple[Gate, Any]]] = {}
        for gate in self.gates:
            for reader in gate.place.readers:
                by_layer.setdefault(reader.layer, []).append((gate, reader))
        for name, pairs in by_layer.items():
            layer = model.get_submodule(name)
            hook = self._hook(pairs)
            self._handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))

    def _hook(self, pairs: list[tuple[Gate, Any]]) -> Any:
        def scale(
            module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            x = inputs[0] if inputs else named["input"]
            dense = isinstance(module, nn.Linear)
            for gate, reader in pairs:
                if module.training and self.noise.active:
                    values = reader.spread(gate.scales(x.shape[0], self.noise), 1.0)
                else:
                    values = reader.spread(gate.mean(), 1.0)[None]
                between = x.dim() - 2 if dense else 0
                after = 0 if dense else x.dim() - 2
                shape = (values.shape[0], *[1] * between, values.shape[1], *[1] * after)
                x = x * values.reshape(shape).to(x)
            return (x,), {}

        return scale

    def fresh(self) -> None:
        """Forget the last draw."""
        for gate in self.gates:
            gate.current = None

    def remove(self) -> None:
        """Take the hooks off again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @torch.no_grad()
    def fold(self, model: nn.Module) -> None:
        """Multiply the mean scales into the weights that read them, and remove the hooks."""
        for gate in self.gates:
            mean = gate.mean()
            for reader in gate.place.readers:
                weight = model.get_submodule(reader.layer).weight
                shape = (1, -1, *[1] * (weight.dim() - 2))  # type: ignore[operator]
                weight.mul_(reader.spread(mean, 1.0).reshape(shape))  # type: ignore[operator]
        self.remove()


def inverse_softplus(value: float) -> float:
    """``x`` with ``log(1 + exp(x)) = value``."""
    return value + math.log(-math.expm1(-value))


def logit(probability: float) -> float:
    """Log-odds of a probability, nats."""
    return math.log(probability / (1 - probability))
