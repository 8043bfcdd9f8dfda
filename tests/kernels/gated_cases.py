"""Gated MLPs and their float64 reference, for the torch and the interpreted kernel."""

import torch
from torch import Tensor

from probcomp.kernels.activations import ACTIVATIONS
from tests.kernels.supports import generator


def parts(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    rng = generator(seed)
    shapes = {"x": (19, 70), "gate": (90, 70), "up": (90, 70), "gate_bias": (90,), "up_bias": (90,)}
    return {name: torch.randn(s, generator=rng).to(dtype) for name, s in shapes.items()}


def reference(p: dict[str, Tensor], activation: str, neurons: Tensor | None) -> Tensor:
    wide = {name: tensor.double() for name, tensor in p.items()}
    gate = wide["x"] @ wide["gate"].T + wide.get("gate_bias", 0.0)
    up = wide["x"] @ wide["up"].T + wide.get("up_bias", 0.0)
    y = ACTIVATIONS[activation](gate) * up
    return y if neurons is None else y[:, neurons]
