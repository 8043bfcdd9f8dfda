r"""An order of rows and columns in which neighbours are alike, so that a lattice means something.

The index of a hidden unit is arbitrary. Before a prior couples neighbours, rows and columns are put
in the order of the Fiedler vector of their similarity (`spectral_order`), where the feature of an
entry is what its removal would cost alone,

.. math:: f_{rj} = |w_{rj}| \sqrt{A_{jj}}

Hidden units may be permuted freely; channels of a residual stream share one order in the whole
network, so only pass here what may move.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from probcomp.inference.quadratic.likelihood import Quadratic
from probcomp.inference.training.ordering import spectral_order


@dataclass(frozen=True, eq=False)
class Order:
    """A permutation of a layer's rows and columns; entry i is the old number of the new i.

    Attributes:
        rows: ``[do]``.
        columns: ``[di]``.
    """

    rows: Tensor
    columns: Tensor

    def apply(self, quadratic: Quadratic) -> Quadratic:
        """The likelihood of the permuted weights."""
        weight = quadratic.weight[self.rows][:, self.columns]
        gram = quadratic.gram[self.columns][:, self.columns]
        return Quadratic(weight, gram, quadratic.jitter)

    def restore(self, values: Tensor) -> Tensor:
        """Values ``[do, di]`` of the permuted layer in the old order."""
        old = torch.empty_like(values)
        old[self.rows[:, None], self.columns] = values
        return old


def reorder(
    quadratic: Quadratic,
    *,
    importance: Tensor | None = None,
    rows: bool = True,
    columns: bool = True,
) -> Order:
    """Find an order of a layer's rows and columns.

    Args:
        quadratic: The likelihood.
        importance: What rows and columns are compared by, ``[do, di]``, at least 0, such as
            inclusion probabilities of a first pass; by default ``|w| sqrt(A_jj)``.
        rows: Whether rows may move.
        columns: Whether columns may move.
    """
    if importance is None:
        importance = quadratic.weight.abs() * quadratic.gram.diagonal().sqrt()
    size = importance.shape
    return Order(
        _order(importance) if rows else torch.arange(size[0]),
        _order(importance.mT) if columns else torch.arange(size[1]),
    )


def _order(features: Tensor) -> Tensor:
    return spectral_order(features, features.sum(1) > 0)
