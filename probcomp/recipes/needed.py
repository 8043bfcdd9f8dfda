"""Units that no kept weight reads any more: they can go without changing the function.

Weights are looked at first; then the model is run without the units that none of them reads, since
a model may also read units without a weight (``h.sum()`` beside a layer).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from probcomp.data.batches import Batch
from probcomp.evidence.collect import evaluating
from probcomp.inference.matrices import given_out
from probcomp.recipes.job import Job
from probcomp.recipes.task import Tensors
from probcomp.structure import Axis, silence

SAMPLES = 64
"""Training samples, spread over the data, that the model is run on without the units that nothing
seems to read."""
SAME = 1e-5
"""Share of the largest output by which outputs may differ: products with zero add nothing."""


def all_needed(
    job: Job, model: nn.Module, masks: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Units of each axis that stay, and notes on axes that are read by more than weights.

    Args:
        job: The job.
        model: The dense-shaped model, zero where the masks are off.
        masks: Parameter name to what stays of it, boolean, in the parameter's shape.
    """
    keep = {axis.name: needed(axis, masks, model) for axis in job.units}
    batch = spread(job.train, SAMPLES)
    notes = []

    def outputs(candidate: nn.Module) -> Tensor:
        with evaluating(candidate), torch.no_grad():
            return job.task.logits(candidate, batch).double()

    wanted = outputs(model)

    def harmless(chosen: Mapping[str, Tensor]) -> bool:
        found = outputs(silence(job.structure, model, chosen))
        return float((found - wanted).abs().max()) <= SAME * float(wanted.abs().max())

    while not harmless(keep):
        cut = [name for name, stays in keep.items() if not bool(stays.all())]
        # One that does no harm by itself may still do some together with others.
        for name in [n for n in cut if not harmless({n: keep[n]})] or cut:
            keep[name] = torch.ones_like(keep[name])
            notes.append(
                f"The units of {name} all stay: without those that no weight reads the outputs "
                "change, so something other than a weight reads them."
            )
        if not cut:
            break  # nothing is left to put back: outputs that differ from run to run
    return keep, notes


def spread(samples: Tensors, most: int) -> Batch:
    """A batch of some samples, evenly over data that may be sorted."""
    tensors = list(samples.values()) if isinstance(samples, Mapping) else list(samples)
    count = len(tensors[0])
    chosen = torch.arange(min(most, count)) * count // min(most, count)
    picked = [t[chosen.to(t.device)] for t in tensors]
    return dict(zip(samples, picked)) if isinstance(samples, Mapping) else tuple(picked)


def needed(axis: Axis, masks: Mapping[str, Tensor], model: nn.Module) -> Tensor:
    """Units of an axis that some weight reads, boolean [size]; at least ``min_keep``.

    A weight without a mask reads the units at which it is not zero. What neither is a mask's nor
    known to give units out (a tensor that a module of another kind owns) is taken as reading them;
    biases, norms and buffers only change units. Units of axes that no weight reads all stay.

    Args:
        axis: The axis.
        masks: Parameter name to what stays of it, boolean, in the parameter's shape.
        model: The model, dense or with its masks at zero.
    """
    read = torch.zeros(axis.size, dtype=torch.bool)
    values = dict(model.named_parameters(remove_duplicate=False))
    readers = 0
    for member in axis.members:
        value = values.get(member.parameter)
        if value is None or value.dim() < 2:
            continue
        if given_out(model, value, member.dim):
            continue
        readers += 1
        mask = masks.get(member.parameter)
        stays = value.detach() != 0 if mask is None else mask
        lines = stays.cpu().movedim(member.dim, 0).flatten(1).any(1)
        read |= lines[member.index].flatten(1).any(1)
    if not readers:
        return torch.ones_like(read)
    least = min(axis.min_keep, axis.size)
    spare = torch.nonzero(~read).flatten()[: max(0, least - int(read.sum()))]
    read[spare] = True
    return read
