"""Seeding of torch's global random numbers, on the devices of a network."""

import contextlib

import pytest
import torch
from torch import nn

from probcomp.errors import InputError
from probcomp.regime import randomness
from probcomp.regime.randomness import seeded


class Elsewhere:
    """Says of its one parameter that it lies on the second CUDA device."""

    def parameters(self):
        return [type("Parameter", (), {"device": torch.device("cuda", 1)})()]

    def buffers(self):
        return []


def test_the_state_is_restored_and_draws_follow_the_seed():
    model = nn.Linear(2, 2)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with contextlib.suppress(KeyError), seeded(model) as set_seed:
        set_seed(5)
        first = torch.rand(3)
        set_seed(5)
        assert torch.equal(torch.rand(3), first)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), first)


def test_the_generator_of_the_networks_device_is_seeded_too(monkeypatch):
    devices = [torch.Generator().manual_seed(i) for i in range(3)]
    monkeypatch.setattr(randomness.torch.cuda, "default_generators", devices)
    before = [g.get_state() for g in (torch.default_generator, *devices)]
    with seeded(Elsewhere()) as set_seed:
        draws = []
        for _ in range(2):
            set_seed(11)
            draws.append([torch.rand(2), torch.rand(2, generator=devices[1])])
        for first, second in zip(*draws):
            assert torch.equal(first, second)
        for other in (0, 2):  # a device on which the network does not lie
            assert torch.equal(devices[other].get_state(), before[1 + other])
    after = [g.get_state() for g in (torch.default_generator, *devices)]
    assert all(torch.equal(x, y) for x, y in zip(before, after))


def test_a_device_that_cannot_be_seeded_is_refused():
    with pytest.raises(InputError, match=r"'meta'.*move it to 'cpu' or 'cuda'"):
        seeded(nn.Linear(2, 2, device="meta")).__enter__()
