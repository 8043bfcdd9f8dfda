"""Statistics over several processes: each sees a share of the batches, and sums are added.

Start the processes with ``torchrun`` or ``accelerate launch``; with one process, or without a
process group, everything here does nothing.

```python
mine = share_of(batches)                      # each process: every n-th batch
statistics = add_across(collect(model, matrices, mine, run))
```
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor, distributed

from probcomp.errors import InputError
from probcomp.evidence.collect import Statistics

T = TypeVar("T")


def share_of(batches: Iterable[T]) -> Iterator[T]:
    """The batches of this process: those whose number leaves its rank when divided."""
    rank, world = _place()
    return (batch for number, batch in enumerate(batches) if number % world == rank)


def add_across(statistics: Mapping[str, Statistics]) -> dict[str, Statistics]:
    """The sums of all processes, the same in each.

    Sums are added in float64, in an order that depends on the number of processes, so results
    agree with those of one process to rounding.

    Args:
        statistics: This process's own, by read-out; every process has the same names.

    Raises:
        InputError: The processes collected different read-outs.
    """
    rank, world = _place()
    if world == 1:
        return dict(statistics)
    names = sorted(statistics)
    everyone: list[list[str]] = [[] for _ in range(world)]
    distributed.all_gather_object(everyone, names)
    if any(other != names for other in everyone):
        raise InputError(
            f"process {rank} collected {', '.join(names) or 'nothing'}, another process other "
            "read-outs; every process needs at least one batch, and the same model"
        )
    return {name: _added(statistics[name]) for name in names}


def _added(own: Statistics) -> Statistics:
    probed = own.count if own.probed is None else own.probed
    counts = torch.tensor([own.count, own.samples, probed], dtype=torch.int64)
    _reduce(counts)
    fisher = None if own.fisher is None else _reduce(own.fisher.clone())
    return dataclasses.replace(
        own, gram=_reduce(own.gram.clone()), sum=_reduce(own.sum.clone()),
        count=int(counts[0]), samples=int(counts[1]), fisher=fisher, probed=int(counts[2]),
    )  # fmt: skip


def _reduce(tensor: Tensor) -> Tensor:
    """Added over all processes, on the device that the group's backend can read."""
    cuda = distributed.get_backend() == "nccl"
    there = tensor.cuda() if cuda else tensor
    distributed.all_reduce(there)
    return tensor.copy_(there) if cuda else tensor


def _place() -> tuple[int, int]:
    """Rank and number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
