r"""Structured Optimal Brain Surgeon: remove units one at a time, and let the rest make up for it.

For a read-out ``W`` whose loss is quadratic with Hessian ``H = sum_t x_t x_t^T`` (damped), removing
the columns ``S`` of a unit and adjusting all others costs

.. math:: \rho_S = \tfrac12 \sum_i W_{iS} \bigl[(H^{-1})_{SS}\bigr]^{-1} W_{iS}^\top

and the adjustment and the inverse for what remains are

.. math:: W \leftarrow W - W_S [(H^{-1})_{SS}]^{-1} (H^{-1})_{S:}, \qquad
          H^{-1} \leftarrow H^{-1} - (H^{-1})_{:S} [(H^{-1})_{SS}]^{-1} (H^{-1})_{S:}

(Kurtic, Frantar and Alistarh 2023, "ZipLM: inference-aware structured pruning of language models",
equations 2 and 3, after Hassibi and Stork 1993). The unit of the smallest cost goes, all costs are
computed again, and so on: each unit is judged by what those still there can do for it. Read-outs of
one axis share their units, so their costs add.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.evidence.surgeon import tables
from probcomp.inference.quadratic import Quadratic

DAMPING = 0.01
"""Added to the diagonal of the Hessian, over its mean (the published value)."""


NOTHING = 1e-30
"""Stands for a mean square of zero, so that a Gram matrix of dead inputs can be inverted."""


def alive(gram: Tensor) -> Tensor:
    """A Gram matrix; a negligible multiple of the identity where no input carries anything."""
    if bool((gram.diagonal() > 0).any()):
        return gram
    return NOTHING * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


@dataclass(frozen=True, eq=False)
class Elimination:
    """The order in which the units of an axis go.

    Attributes:
        order: Unit numbers, first to go first, ``[n]``.
        cost: Error that each removal added, ``[n]``, half squared units of output summed over
            rows. Their running sum is the loss at each number of units removed.
        factors: What was given.
    """

    order: Tensor
    cost: Tensor
    factors: Sequence[tuple[Quadratic, Tensor]]

    @cached_property
    def energy(self) -> float:
        """The error of an output of zero, in the same units; for relative errors."""
        return sum(0.5 * float((q.linear * q.weight).sum()) for q, _ in self.factors)


def saliency(quadratic: Quadratic, columns: Tensor) -> Tensor:
    """``rho`` of each unit with all others there, ``[G]``; see the module's formula.

    Args:
        quadratic: Weight and Gram matrix of a read-out; its jitter is the damping.
        columns: Columns of each unit, ``[G, k]``.
    """
    return tables(quadratic, columns).scores(len(columns))


def eliminate(
    factors: Sequence[tuple[Quadratic, Tensor]], *, removals: int | None = None
) -> Elimination:
    """Remove units of one axis greedily.

    Each removal takes one update of the inverse, ``k di^2`` operations, and one of the weights,
    ``k do di``; for units of one column in blocks (`probcomp.evidence.surgeon`).

    Args:
        factors: For each read-out of the axis its quadratic and the columns ``[G, k]`` of the
            units in it.
        removals: How many go; all but one by default.

    Raises:
        InputError: No read-out, read-outs with different units, or more removals than units.
        DivergenceError: A Hessian that is not positive definite.
    """
    counts = {len(columns) for _, columns in factors}
    if len(counts) != 1:
        raise InputError(f"read-outs of one axis share its units, got {sorted(counts)} of them")
    (units,) = counts
    wanted = units - 1 if removals is None else removals
    if not 0 <= wanted <= units:
        raise InputError(f"removals must be between 0 and {units}, got {wanted}")
    parts = [tables(q, columns) for q, columns in factors]
    order, cost = [], []
    for _ in range(wanted):
        total = parts[0].scores(units)
        for part in parts[1:]:
            total = total + part.scores(units)
        unit = int(total.argmin())
        order.append(unit)
        cost.append(float(total[unit]))
        for part in parts:
            part.remove(unit)
    return Elimination(
        torch.tensor(order, dtype=torch.int64), torch.tensor(cost, dtype=torch.float64), factors
    )
