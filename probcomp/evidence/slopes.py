r"""What removing units costs when nothing adjusts: the Gauss-Newton form in the units themselves.

Let ``m_u`` be the strength of unit ``u``, 1 in the dense model. A probe of the log-likelihood
(`probcomp.evidence.fisher`) has along it the slope

.. math:: J_{nu} = \sum_t g_{nt}^\top W_{\cdot u}\, x_{ntu}

summed over the read-outs of the unit and over the rows ``t`` of a sample ``n``, with ``g`` the
gradient at the output. Removing the units ``S`` is the step of -1 along each of them, and

.. math:: \Delta L \approx \tfrac1{2N} \sum_n \Bigl( \sum_{u \in S} J_{nu} \Bigr)^2

is its loss in the Gauss-Newton approximation (Kwon et al. 2022, arXiv 2204.09656, equation 6, who
use the gradients of the true labels). Unlike a Kronecker-factored form it takes neither rows nor
layers as independent: an error that all tokens of a text share adds up before it is squared, one at
a token that nothing reads costs nothing, and errors of several layers may cancel. It has one column
for each unit, so it says nothing about what the others can make up for.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.evidence.collect import Probe, Run, evaluating, row_mask
from probcomp.evidence.products import at_least_single
from probcomp.evidence.readouts import Readout


@dataclass(frozen=True, eq=False)
class Slopes:
    """Slopes of probes along the strength of each unit.

    Attributes:
        axes: Axis name to ``J``, [probes of all samples, units], float64.
        units: What the loss counts, samples or tokens, times the probes of each sample.
    """

    axes: Mapping[str, Tensor]
    units: int

    def loss(self, keep: Mapping[str, Tensor]) -> float:
        """Predicted loss increase, nats a unit of the loss, when some units stay.

        Args:
            keep: Axis name to booleans, true where a unit stays; axes not named stay whole.

        Raises:
            InputError: An axis that is not known, or another number of units.
        """
        total = torch.zeros((), dtype=torch.float64)
        for name, mask in keep.items():
            if name not in self.axes or mask.shape != self.axes[name].shape[1:]:
                raise InputError(f"no slopes of {len(mask)} units of {name!r} are known")
            total = total + self.axes[name][:, ~mask].sum(1)
        return 0.5 * float(total.square().sum()) / self.units


def unit_slopes(
    model: nn.Module,
    reads: Sequence[Readout],
    batches: Iterable[Any],
    run: Run,
    probe: Probe,
    units: Callable[[Any], int],
) -> Slopes:
    """One forward pass and a backward pass for each probe.

    Args:
        model: Put into evaluation mode for the pass; nothing of it is changed.
        reads: The read-outs of the units.
        batches: What to run on.
        run: Runs the model on a batch.
        probe: Scalars whose gradients have the Fisher matrix as their mean, see `fisher`.
        units: What the loss counts in a batch.

    Raises:
        InputError: No batch, or a read-out whose module was never called.
    """
    modules = dict(model.named_modules())
    found: dict[str, list[Tensor]] = {read.axis: [] for read in reads}
    counted = 0
    for batch in batches:
        seen: list[tuple[Readout, Tensor, Tensor]] = []
        handles = [
            modules[read.module].register_forward_hook(_hook(read, seen), prepend=True)
            for read in reads
        ]
        try:
            with evaluating(model), torch.enable_grad():
                scalars = probe(run(model, batch), batch)
        finally:
            for handle in handles:
                handle.remove()
        missing = {read.parameter for read in reads} - {read.parameter for read, _, _ in seen}
        if missing:
            raise InputError(f"{', '.join(sorted(missing))} was read by no module of the pass")
        for number, scalar in enumerate(scalars):
            more = number + 1 < len(scalars)
            leaves = [leaf for _, _, leaf in seen]
            gradients = torch.autograd.grad(scalar, leaves, retain_graph=more, allow_unused=True)
            slopes: dict[str, Tensor] = {}
            for (read, inputs, _), gradient in zip(seen, gradients):
                if gradient is not None:
                    part = _along(read, modules[read.module], inputs, gradient, batch)
                    slopes[read.axis] = slopes[read.axis] + part if read.axis in slopes else part
            for name, value in slopes.items():
                found[name].append(value)
        counted += units(batch) * len(scalars)
    if not counted:
        raise InputError("no batch was given")
    return Slopes({name: torch.cat(parts) for name, parts in found.items()}, counted)


def _hook(read: Readout, seen: list[tuple[Readout, Tensor, Tensor]]) -> Callable[..., Tensor]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        leaf = torch.zeros_like(output).requires_grad_()
        seen.append((read, inputs[0].detach(), leaf))
        return output + leaf

    return hook


def _along(
    read: Readout, module: nn.Module, inputs: Tensor, gradient: Tensor, batch: Any
) -> Tensor:
    """``J`` of one read-out, [samples, units]."""
    rows = at_least_single(read.matrix.rows(module, inputs))
    slope = at_least_single(read.matrix.outputs(gradient))
    weight = at_least_single(read.matrix.of(module.get_parameter("weight").detach()))
    product = (slope @ weight) * rows
    mask = row_mask(batch, rows, decoder=read.matrix.decoder)
    if mask is not None:
        product = product * mask[..., None]
    return product.sum(1, dtype=torch.float64)[:, read.columns].sum(-1).cpu()
