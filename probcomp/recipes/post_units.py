r"""Units judged at their read-outs: quadratics in nats, and the order in which they would go.

The loss of new read-outs is ``1/2 tr(G dW A dW^T)`` (Martens and Grosse 2015): ``A`` of the inputs,
centred where a bias takes up their mean, ``G`` the Fisher matrix at the outputs. Rows are rotated
into the eigenbasis of ``G`` and scaled, so that every row shares ``A``; directions that carry next
to nothing are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from probcomp.evidence import Readout, Statistics
from probcomp.evidence.fused import weight_of
from probcomp.evidence.obs import alive, eliminate
from probcomp.inference.quadratic import GroupFactor, Quadratic, refit
from probcomp.structure import Axis

NEGLIGIBLE = 1e-3
"""Share of the Fisher matrix's trace in directions that are left out."""
DAMPING_RANGE = (1e-3, 1.0)
"""Least and most damping of the default rule."""
CONSTANT = 1e-6
"""Share of its mean square below which an input's variance is rounding of float32 sums."""


@dataclass(frozen=True, eq=False)
class Judged:
    """An axis, with the order in which its units would go.

    Attributes:
        axis: The axis.
        reads: Its read-outs; none for experts, whose removal is measured.
        order: Unit numbers, first to go first, [size - min_keep].
        loss: Predicted loss increase with 0, 1, 2 ... of them gone and the others adjusted, in
            nats a unit of the loss, before tempering, [len(order) + 1].
        multiple: A multiple of it stays.
    """

    axis: Axis
    reads: tuple[Readout, ...]
    order: Tensor
    loss: Tensor
    multiple: int = 1

    def keep(self, removed: int) -> Tensor:
        """The units that stay when the first ``removed`` of the order go, boolean [size].

        More go where as many stay as no kernel takes.
        """
        mask = torch.ones(self.axis.size, dtype=torch.bool)
        mask[self.order[: self.whole(removed)]] = False
        return mask

    def whole(self, removed: int) -> int:
        """As many units as go in truth when so many are to go."""
        return (
            removed and self.axis.size - (self.axis.size - removed) // self.multiple * self.multiple
        )

    def in_multiples(self, multiple: int) -> "Judged":
        """The same, of which only a multiple of units can stay: others cost what that costs."""
        found = replace(self, multiple=multiple)
        return replace(found, loss=self.loss[[found.whole(m) for m in range(len(self.loss))]])


def input_gram(statistics: Statistics, centred: bool) -> Tensor:
    """``A``, with the means taken out where a bias can put them back.

    An input that never varies has a row and a column of zeros, not of rounding.
    Where no input carries anything, the matrix is a negligible multiple of the identity.
    """
    gram = statistics.gram
    if centred:
        raw = gram.diagonal()
        gram = torch.outer(statistics.sum, statistics.sum).mul_(-1 / statistics.count).add_(gram)
        constant = gram.diagonal() <= CONSTANT * raw
        if bool(constant.any()):
            gram[constant] = 0
            gram[:, constant] = 0
    return alive(gram)


def metric_root(metric: Tensor | None, outputs: int) -> Tensor:
    """``R`` [r, do] with ``R^T R = G``, without negligible directions.

    Without a Fisher matrix all outputs count alike: one nat for half a squared unit of error.
    """
    if metric is None:
        return torch.eye(outputs, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(metric)
    values = values.clamp_min(0)
    total = values.sum()
    used = values.cumsum(0) > NEGLIGIBLE * total
    if not bool(used.any()):
        used[-1] = True
    return (vectors[:, used] * values[used].sqrt()).T.contiguous()


def factors(
    model: nn.Module,
    reads: Sequence[Readout],
    statistics: Mapping[str, Statistics],
    *,
    damping: float | None,
    centred: Callable[[str], bool],
    correlations: bool = True,
) -> list[GroupFactor]:
    """The likelihood of each read-out, nats of the whole calibration set, slab to be learnt.

    Without ``correlations`` columns of different units count as uncorrelated.
    """
    found = []
    for read in reads:
        seen = statistics[read.parameter]
        weight = dense_weight(model, read)
        root = metric_root(seen.metric, len(weight))
        gram = input_gram(seen, centred(read.parameter))
        if not correlations:
            own = torch.zeros_like(gram)
            own[read.columns[:, :, None], read.columns[:, None, :]] = 1.0
            gram = gram * own
        quadratic = Quadratic(root @ weight, gram, damping_of(damping, seen))
        found.append(GroupFactor(quadratic, read.columns))
    return found


def judge(
    axis: Axis, reads: Sequence[Readout], parts: Sequence[GroupFactor], *, units: int
) -> Judged:
    """Remove the units of an axis one at a time, each judged by what the others can make up for.

    Args:
        axis: The axis.
        reads: Its read-outs.
        parts: Their likelihoods, see `factors`.
        units: What the loss counts: samples or tokens of the calibration set.
    """
    found = eliminate([(f.quadratic, f.columns) for f in parts], removals=axis.size - axis.min_keep)
    loss = torch.cat([torch.zeros(1, dtype=torch.float64), found.cost.cumsum(0)]) / units
    return Judged(axis, tuple(reads), found.order, loss)


def damping_of(damping: float | None, statistics: Statistics) -> float:
    """The pull towards the dense weights, over the mean diagonal of the Gram matrix.

    By default inputs over the rows that the sums stand for, within `DAMPING_RANGE`: a matrix of few
    rows is believed less.
    """
    if damping is not None:
        return damping
    low, high = DAMPING_RANGE
    return min(max(len(statistics.gram) / max(1, statistics.count), low), high)


def dense_quadratic(
    model: nn.Module, read: Readout, statistics: Statistics, *, damping: float | None, centred: bool
) -> Quadratic:
    """A read-out's loss with all outputs alike, from dense statistics; for `dense_refit`."""
    gram = input_gram(statistics, centred)
    return Quadratic(dense_weight(model, read), gram, damping_of(damping, statistics))


def dense_weight(model: nn.Module, read: Readout) -> Tensor:
    """A read-out's weights, [do, di], float64."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    return read.matrix.of(weight_of(tensors, read.parameter).detach()).double()


def dense_refit(
    quadratic: Quadratic, statistics: Statistics, columns: Tensor, *, centred: bool
) -> tuple[Tensor, Tensor | None]:
    """A read-out adjusted to what stays, and what its bias gains; from dense statistics.

    Args:
        quadratic: See `dense_quadratic`.
        statistics: What it saw.
        columns: True where a column stays, boolean [di].
        centred: Whether something takes up the mean error.
    """
    new = refit(quadratic, columns)
    if not centred:
        return new, None
    means = (statistics.sum / statistics.count).to(new)
    return new, (quadratic.weight - new) @ means


def kept_columns(read: Readout, keep: Tensor, size: int) -> Tensor:
    """True where a column stays, boolean [di], for the units of one axis."""
    columns = torch.ones(size, dtype=torch.bool)
    columns[read.columns[~keep].flatten()] = False
    return columns
