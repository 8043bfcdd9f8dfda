r"""What removing units does to each output of a classifier, and what that costs.

The response ``R_u`` of an output to unit ``u`` is what it loses when the unit goes: its derivative
along the unit's strength (`probcomp.evidence.slopes`), or for units whose own removal already costs
much the measured difference, as there derivatives say little. Responses of several units add up,

.. math:: z(S) \approx z - \sum_{u \in S} R_u

and the loss is the likelihood's own divergence of ``z(S)`` from ``z``. Against the Gauss-Newton
form it keeps that an output far off costs in proportion, not in squares, and it needs no softened
probabilities where a classifier is sure of its own training samples. It takes one backward pass for
each output, so it is for few outputs. Where many units go together, what is lost twice is counted
twice.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.evidence.collect import Run, batch_size
from probcomp.evidence.readouts import Readout
from probcomp.evidence.slopes import unit_slopes

Divergence = Callable[[Tensor, Tensor], Tensor]
"""``divergence(outputs, dense) -> nats a sample``, a scalar tensor."""


@dataclass(frozen=True, eq=False)
class Responses:
    """Outputs of the dense model, and what they lose with each unit.

    Attributes:
        dense: Outputs, [samples, outputs], float64.
        axes: Axis name to ``R``, [samples, outputs, units], float64.
    """

    dense: Tensor
    axes: Mapping[str, Tensor]

    def outputs(self, keep: Mapping[str, Tensor]) -> Tensor:
        """Predicted outputs [samples, outputs] when some units stay.

        Args:
            keep: Axis name to booleans, true where a unit stays; axes not named stay whole.

        Raises:
            InputError: An axis that is not known, another number of units, or no booleans.
        """
        found = self.dense
        for name, mask in keep.items():
            if mask.dtype != torch.bool:
                raise InputError(
                    f"the units of {name!r} that stay must be booleans, not {mask.dtype}"
                )
            if name not in self.axes or mask.shape != self.axes[name].shape[2:]:
                raise InputError(f"no responses to {len(mask)} units of {name!r} are known")
            found = found - self.axes[name][:, :, ~mask].sum(2)
        return found

    def loss(self, keep: Mapping[str, Tensor], divergence: Divergence) -> float:
        """Predicted loss increase, nats a sample."""
        return float(divergence(self.outputs(keep), self.dense))

    def measured(
        self, above: float, divergence: Divergence, without: Callable[[str, int], Tensor]
    ) -> "Responses":
        """Measured differences in place of derivatives, for units that are predicted to cost much.

        Args:
            above: Nats a sample that the removal of one unit must cost.
            divergence: How outputs are compared.
            without: ``without(axis, unit)`` runs the model without a unit, [samples, outputs].

        Raises:
            InputError: A divergence that is NaN, or outputs of another shape or not finite.
        """
        axes = {}
        for name, old in self.axes.items():
            new = old.clone()
            for unit in range(old.shape[2]):
                cost = float(divergence(self.dense - old[:, :, unit], self.dense))
                if math.isnan(cost):
                    raise InputError(f"the divergence without unit {unit} of {name} is NaN")
                if cost > above:
                    found = without(name, unit)
                    if found.shape != self.dense.shape:
                        raise InputError(
                            f"outputs without unit {unit} of {name} have the shape "
                            f"{tuple(found.shape)}, the dense ones {tuple(self.dense.shape)}"
                        )
                    if not found.isfinite().all():
                        raise InputError(f"outputs without unit {unit} of {name} are not finite")
                    new[:, :, unit] = self.dense - found.to(self.dense)
            axes[name] = new
        return replace(self, axes=axes)


def linear_responses(
    model: nn.Module, reads: Sequence[Readout], batches: Iterable[Any], run: Run
) -> Responses:
    """Responses by derivatives: one forward pass, and a backward pass for each output.

    Args:
        model: Nothing of it is changed.
        reads: The read-outs of the units.
        batches: What to run on.
        run: Runs the model on a batch; gives [samples, outputs].

    Raises:
        InputError: No batch, outputs of another shape, or a read-out that was never called.
    """
    dense: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {read.axis: [] for read in reads}

    def each(outputs: Tensor, batch: Any) -> list[Tensor]:
        if outputs.dim() != 2:
            raise InputError(
                f"responses need outputs [samples, outputs], got {tuple(outputs.shape)}"
            )
        dense.append(outputs.detach().double().cpu())
        return [outputs[:, number].sum() for number in range(outputs.shape[1])]

    for batch in batches:
        found = unit_slopes(model, reads, [batch], run, each, batch_size)
        for name, slopes in found.axes.items():
            parts[name].append(slopes.unflatten(0, (-1, len(dense[-1]))).movedim(0, 1))
    if not dense:
        raise InputError("no batch was given")
    return Responses(torch.cat(dense), {name: torch.cat(p) for name, p in parts.items()})
