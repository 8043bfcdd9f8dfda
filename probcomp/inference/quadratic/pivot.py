r"""A layer's posterior given a hard set of units, kept up to date as units enter and leave.

With ``K = A + alpha I`` and the kept columns ``S``, the table holds, in the place of ``K``, the
posterior covariance in ``S``, the Schur complement outside, and between them the regression of one
on the other; in the place of ``B`` the posterior means in ``S`` and what is left of ``B`` outside.
Moving a unit across is one principal pivot transform of both (Tucker 1960; Tsatsomeros 2000),

.. math:: \begin{pmatrix} P & Q \\ R & V \end{pmatrix} \mapsto
          \begin{pmatrix} P^{-1} & -P^{-1} Q \\ R P^{-1} & V - R P^{-1} Q \end{pmatrix}

a rank-k update of ``di^2 + do di`` operations that is its own inverse. Every unit's evidence given
the rest can be read off at any time, whether it is in or out.
"""

import math

import torch
from torch import Tensor

from probcomp.inference.quadratic.likelihood import Quadratic, cholesky
from probcomp.inference.quadratic.savage_dickey import group_blocks, group_rows


class Pivot:
    """The table of one consumer. Mutable: `toggle` moves a unit, `refresh` removes rounding.

    Attributes:
        table: ``[di, di]``.
        linear: ``[do, di]``.
        kept: Units that are in, ``[G]``.
    """

    def __init__(self, quadratic: Quadratic, columns: Tensor, slab: float, kept: Tensor) -> None:
        self.quadratic, self.columns, self.slab = quadratic, columns, slab
        self.kept = kept.clone()
        self.refresh()

    def refresh(self) -> None:
        """Table and linear term from scratch, by one Cholesky factorisation."""
        table = self.quadratic.precision.clone()
        table.diagonal().add_(self.slab)
        inside = torch.ones(len(table), dtype=torch.bool, device=table.device)
        inside[self.columns[~self.kept].flatten()] = False
        s, r = inside.nonzero().flatten(), (~inside).nonzero().flatten()
        linear = self.quadratic.linear.clone()
        if len(s):
            covariance = torch.cholesky_inverse(cholesky(table[s][:, s]))
            across = covariance @ table[s][:, r]
            means = linear[:, s] @ covariance
            linear[:, r] -= means @ table[s][:, r]
            linear[:, s] = means
            table[r[:, None], r] -= table[r][:, s] @ across
            table[s[:, None], s] = covariance
            table[s[:, None], r], table[r[:, None], s] = -across, across.mT
        self.table, self.linear = table, linear

    def toggle(self, unit: int) -> None:
        """Put a unit in, or take it out."""
        at = self.columns[unit]
        row = self.table[at].clone()
        if len(at) == 1:  # a rank-one update without a factorisation
            pivot = 1 / row[0, at[0]]
            lead, means = self.table[:, at] * pivot, self.linear[:, at] * pivot
            inner = pivot[None, None]
        else:
            inner = torch.linalg.inv(row[:, at])
            lead, means = self.table[:, at] @ inner, self.linear[:, at] @ inner
        across = inner @ row
        self.table.addmm_(lead, row, alpha=-1)
        self.linear.addmm_(means, row, alpha=-1)
        self.table[at] = -across
        self.table[:, at] = lead
        self.table[at[:, None], at] = inner
        self.linear[:, at] = means
        self.kept[unit] = ~self.kept[unit]

    def evidence(self, units: Tensor | None = None) -> Tensor:
        """``l_g`` of each unit given all others as they are, nats, ``[units]``."""
        columns = self.columns if units is None else self.columns[units]
        kept = self.kept if units is None else self.kept[units]
        k, rows = columns.shape[1], self.quadratic.rows
        sign = torch.where(kept, -0.5 * rows, 0.5 * rows).to(self.table)
        if k == 1:
            block = self.table.diagonal()[columns[:, 0]]
            square = self.linear[:, columns[:, 0]].square().sum(0) / block
            log_det = block.log()
        else:
            factor = cholesky(group_blocks(self.table, columns))
            whitened = torch.linalg.solve_triangular(
                factor, group_rows(self.linear, columns).mT, upper=False
            )
            square = whitened.square().sum((-2, -1))
            log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        occam = 0.5 * rows * k * math.log(self.slab)
        return occam - sign * log_det + 0.5 * square
