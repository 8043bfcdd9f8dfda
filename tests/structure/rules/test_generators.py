"""Made tensors fit any number of units, unless their values depend on the place."""

import torch

from .cases import held, neuron


def test_constants_take_any_size() -> None:
    held(neuron("zeros_like", lambda z: z + torch.zeros_like(z), [("neuron", 9)]))
    held(neuron("full", lambda z: z * torch.full((9,), 2.0, dtype=z.dtype), [("neuron", 9)]))


def test_values_by_place_are_cut_with_the_units() -> None:
    held(neuron("places", lambda z: z * torch.linspace(0, 1, 9, dtype=z.dtype), [("neuron", 9)]))
