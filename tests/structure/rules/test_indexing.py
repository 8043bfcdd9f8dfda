"""Lookups: samples may be reordered; units that are picked by number are held."""

import torch

from ..cutting import free
from .cases import held, neuron

ORDER = torch.tensor([1, 0])


def test_reordered_samples_leave_units_free() -> None:
    held(neuron("index_select", lambda z: z.index_select(0, ORDER), [("neuron", 9)]))
    held(neuron("index", lambda z: z[ORDER], [("neuron", 9)]))


def test_units_that_are_picked_by_number_cannot_go() -> None:
    picked = neuron("picked", lambda z: z[:, torch.tensor([0, 2, 4])], [], out=3)
    _, structure, _ = picked.build()
    assert 9 not in [axis.size for axis in free(structure)]
