r"""Few distinct values, chosen by what they cost in loss and in bits.

For the weights ``w_n`` of a tensor, with curvature ``h_n`` (nats per squared unit, over the whole
data set), centroids ``c`` and their code lengths ``b`` minimise

    sum_n [ h_n (w_n - c_{k(n)})^2 / 2 + price b_{k(n)} ] + price B K

where ``b_k = -log2 p_k`` bits are the lengths of an ideal code under the shares that result, ``B``
the bits of a stored centroid and zero is a centroid that costs no more than its place in the mask
(entropy-constrained quantisation: Chou, Lookabaugh and Gray 1989). ``1 / h_n`` is the variance of a
Laplace posterior: a weight that the data leave wide open may be stored coarsely. At a price of
``ln 2`` nats a bit the sum is a two-part description length of data and weights.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from probcomp.coding.tensors import as_float32, as_rows
from probcomp.errors import InputError

FIRST_VALUES = 33
"""Centroids to begin with, evenly over the range as in Han, Mao and Dally (2016); most go."""
CENTROID_BITS = 16
ITERATIONS = 20
RELATIVE_PRICES = tuple(2.0 ** (k / 2) for k in range(-24, 1))
"""Prices to try where no importance is given: relative squared error for each bit."""
FITTED = 2**14
"""Most weights of a tensor that its centroids are fitted on, a random part of larger ones."""
CHUNK = 2**16
"""Weights that are given their centroid at a time."""
LEAST_CURVATURE = 0.01
"""Curvatures count as at least this share of their tensor's mean: an estimate of zero comes from
few samples, and no weight is free to move anywhere."""


@dataclass(frozen=True)
class Quantised:
    """A model whose tensors hold few distinct values.

    Attributes:
        model: The model; its values fit the file formats of `probcomp.coding.encode` exactly.
        books: Parameter name to its distinct non-zero values [k].
        index: Parameter name to the position of each weight's value in the book, -1 for zero;
            the parameter's shape.
    """

    model: nn.Module
    books: Mapping[str, Tensor]
    index: Mapping[str, Tensor]


@torch.no_grad()
def quantise(
    model: nn.Module,
    price: float,
    importance: Mapping[str, Tensor] | None = None,
    *,
    most: int = FIRST_VALUES,
) -> Quantised:
    """Quantise every weight and bias; other parameters are rounded to float16.

    Args:
        model: Not changed. Its zeros stay zero, and others may join them.
        price: Nats a bit; larger means coarser. With ``importance=None`` the loss is the squared
            error relative to the tensor's mean square, and the price is of that unit.
        importance: Parameter name to curvature of the total loss, such as `curvature` gives.
        most: Largest number of values in a codebook.

    Raises:
        InputError: A price that is not positive, or importances that do not fit.
    """
    if not (price > 0 and math.isfinite(price)):
        raise InputError(f"price must be positive and finite, got {price}")
    model = copy.deepcopy(model)
    coded = {id(t) for t in coded_parameters(model).values()}
    books, index = {}, {}
    for name, parameter in model.named_parameters():
        values = as_float32(parameter, name)
        if id(parameter) not in coded:
            parameter.copy_(as_half(torch.from_numpy(values)))
            continue
        weight = _importance(name, values, importance)
        book, places = fit_codebook(values, weight, price, most)
        books[name] = torch.from_numpy(book)
        index[name] = torch.from_numpy(places)
        write_values(parameter, books[name], index[name])
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.copy_(as_half(buffer))
    return Quantised(model, books, index)


def coded_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of two or more dimensions, and biases of linear layers and convolutions."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    biases = {id(m.bias) for m in model.modules() if isinstance(m, kinds) and m.bias is not None}
    return {
        name: p
        for name, p in model.named_parameters()
        if p.is_floating_point() and p.numel() and (p.dim() > 1 or id(p) in biases)
    }


def write_values(parameter: Tensor, book: Tensor, index: Tensor) -> None:
    """``parameter[n] = book[index[n]]``, zero where the index is -1."""
    whole = torch.cat([book.to(parameter), parameter.new_zeros(1)])
    parameter.copy_(whole[index])  # -1 is the zero at the end


def as_half(values: Tensor) -> Tensor:
    """Values rounded to float16, where all of them are in its range; in their own type."""
    half = values.half().to(values.dtype)
    return half if bool(torch.isfinite(half).all()) else values


def fit_codebook(
    values: np.ndarray, importance: np.ndarray, price: float, most: int = FIRST_VALUES
) -> tuple[np.ndarray, np.ndarray]:
    """Centroids [k], float16 values in float32, ascending, and the index of each weight.

    Args:
        values: The weights; zeros stay zero.
        importance: Their curvatures, the same shape, positive.
        price: Nats a bit.
        most: Centroids to begin with.
    """
    matrix = as_rows(values)
    kept = matrix != 0
    index = np.full(values.size, -1, np.int64)
    if not kept.any():
        return np.zeros(0, np.float32), index.reshape(values.shape)
    places = int(np.any(kept, 1).sum()) * int(np.any(kept, 0).sum())
    w = values[values != 0].astype(np.float64)
    h = importance[values != 0].astype(np.float64)
    # Half precision first, and the choice after: what is stored is what was chosen from.
    half = np.unique(_centroids(w, h, places, price, most).astype(np.float16).astype(np.float64))
    used = half[half != 0]
    if not len(used):
        return np.zeros(0, np.float32), index.reshape(values.shape)
    parts = [slice(start, start + CHUNK) for start in range(0, len(w), CHUNK)]
    nearest = np.concatenate([np.abs(w[p, None] - used[None]).argmin(1) for p in parts])
    counts = np.bincount(nearest, minlength=len(used)).astype(np.float64)
    choice = np.concatenate(
        [_costs(w[p], h[p], used, counts, places, price).argmin(1) for p in parts]
    )
    alive = np.unique(choice[choice > 0]) - 1
    renamed = np.full(len(used) + 1, -1)
    renamed[alive + 1] = np.arange(len(alive))
    index[(values != 0).ravel()] = renamed[choice]
    return used[alive].astype(np.float32), index.reshape(values.shape)


def _centroids(w: np.ndarray, h: np.ndarray, places: int, price: float, most: int) -> np.ndarray:
    """Centroids of non-zero weights, of a random part of them where they are many."""
    share = min(1.0, FITTED / len(w))
    if share < 1:
        chosen = np.random.default_rng(0).choice(len(w), FITTED, replace=False)
        w, h, places = w[chosen], h[chosen], round(share * places)
    book = np.linspace(w.min(), w.max(), min(most, len(np.unique(w))))
    counts = np.full(len(book), len(w) / len(book))
    for _ in range(ITERATIONS):
        cost = _costs(w, h, book, counts, places, price)
        cost, book, counts = _thin(cost, book, counts, price * share)
        book, counts = _means(w, h, cost.argmin(1), book)
    return book


def _costs(
    w: np.ndarray, h: np.ndarray, book: np.ndarray, counts: np.ndarray, places: int, price: float
) -> np.ndarray:
    """Nats of each weight at zero (column 0) and at each centroid, [weights, 1 + centroids]."""
    total = counts.sum()
    there = (total + 0.5) / (places + 1.0)
    bits = -np.log2(np.maximum(counts, 0.5) / max(total, 1.0)) - math.log2(there)
    rates = np.concatenate([[-math.log2(max(1.0 - there, 0.5 / (places + 1.0)))], bits])
    targets = np.concatenate([[0.0], book])
    return 0.5 * h[:, None] * (w[:, None] - targets[None]) ** 2 + price * rates[None]


def _thin(
    cost: np.ndarray, book: np.ndarray, counts: np.ndarray, price: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drop centroids, the cheapest first, whose members lose less than the centroid costs.

    ``price`` is that of a stored bit to the weights given, a part of all of them or all.
    """
    while len(book):
        first = cost.argmin(1)
        lowest = cost[np.arange(len(cost)), first]
        other = cost.copy()
        other[np.arange(len(cost)), first] = np.inf
        loss = np.bincount(first, other.min(1) - lowest, minlength=len(book) + 1)[1:]
        worst = int(loss.argmin())
        if loss[worst] >= price * CENTROID_BITS:
            break
        cost = np.delete(cost, worst + 1, 1)
        book, counts = np.delete(book, worst), np.delete(counts, worst)
    return cost, book, counts


def _means(
    w: np.ndarray, h: np.ndarray, choice: np.ndarray, book: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Centroids as weighted means of their members, and how many those are."""
    size = len(book) + 1
    mass = np.bincount(choice, h, minlength=size)[1:]
    moment = np.bincount(choice, h * w, minlength=size)[1:]
    counts = np.bincount(choice, minlength=size)[1:].astype(np.float64)
    used = counts > 0
    return moment[used] / mass[used], counts[used]


def _importance(
    name: str, values: np.ndarray, importance: Mapping[str, Tensor] | None
) -> np.ndarray:
    if importance is None or name not in importance:
        scale = float(np.square(values[values != 0]).mean()) if values.any() else 1.0
        return np.full(values.shape, 1.0 / scale)
    given = importance[name].detach().cpu().double().numpy()
    if given.shape != values.shape or not np.isfinite(given).all() or given.min() < 0:
        raise InputError(
            f"the importance of {name} must be finite, not negative and of shape {values.shape}, "
            f"got shape {given.shape}"
        )
    here = given[values != 0]
    mean = float(here.mean()) if here.size else 0.0
    if mean == 0:
        return np.full(values.shape, 1.0)
    return np.maximum(given, LEAST_CURVATURE * mean)
