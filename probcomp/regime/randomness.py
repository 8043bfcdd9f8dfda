"""Torch's global random numbers of a network's devices, seeded inside and as they were after."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from probcomp.errors import InputError


@contextmanager
def seeded(model: nn.Module) -> Iterator[Callable[[int], object]]:
    """A function that seeds what dropout and augmentation draw from; states are restored.

    Those are the generators of the CPU and of the CUDA devices on which the network lies.

    Raises:
        InputError: a network on a device of another kind.
    """
    devices = {part.device for part in (*model.parameters(), *model.buffers())}
    others = {device.type for device in devices} - {"cpu", "cuda"}
    if others:
        raise InputError(
            f"the network lies on device {others.pop()!r}, whose random numbers cannot be seeded "
            "here; move it to 'cpu' or 'cuda'."
        )
    numbers = sorted(device.index or 0 for device in devices if device.type == "cuda")
    generators = [torch.default_generator, *(torch.cuda.default_generators[i] for i in numbers)]
    before = [generator.get_state() for generator in generators]

    # Not torch.manual_seed: it formats the stack at each call, a tenth of a small step.
    def seed_all(value: int) -> None:
        for generator in generators:
            generator.manual_seed(value)

    try:
        yield seed_all if numbers else torch.default_generator.manual_seed
    finally:
        for generator, state in zip(generators, before):
            generator.set_state(state)
