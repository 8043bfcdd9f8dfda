r"""What a layer's data say about its weights, as a quadratic around the dense ones.

For a layer ``y = W x`` the output error that new weights ``W'`` make on the calibration data is

.. math:: -\ln p(D \mid W') = \tfrac12 \operatorname{tr}\bigl((W' - W) A (W' - W)^\top\bigr)
          + \mathrm{const},\qquad A = \sum_t x_t x_t^\top

In natural form, with the linear term ``B = W A``, that is ``tr(B W'^T) - tr(W' A W'^T) / 2``. Rows
may be transformed by the square root of an output metric ``G`` first (``W <- G^{1/2} W``), which
gives the Kronecker-factored Gauss-Newton form (Martens and Grosse 2015) with every row sharing
``A``.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from probcomp.errors import DivergenceError, InputError

SYMMETRIC = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Largest asymmetry of a Gram matrix, over its largest diagonal entry: rounding of long sums."""
RESOLVED = 3e-2
"""Jitter from which on factors in single precision are as good as the sums they come from: the
condition of a matrix of some thousand inputs is then well below the inverse of its rounding."""


@dataclass(frozen=True, eq=False)
class Quadratic:
    """The likelihood of one read-out matrix; all rows share the Gram matrix.

    Attributes:
        weight: Dense weights ``[do, di]``, float32 or float64. Rows transformed where wanted.
        gram: ``sum_t x_t x_t^T``, ``[di, di]``, of the weights' dtype: a raw sum over tokens,
            divided by a temperature where one was fitted, so that the loss is in nats as given.
        jitter: Added to the diagonal for every inference, in units of the mean diagonal. It pulls
            weights that the data do not determine towards the dense ones.
    """

    weight: Tensor
    gram: Tensor
    jitter: float = 1e-4

    def __post_init__(self) -> None:
        _check(self.weight, self.gram, self.jitter)

    @classmethod
    def from_cross(
        cls, weight: Tensor, gram: Tensor, cross: Tensor, jitter: float = 1e-4
    ) -> "Quadratic":
        r"""The likelihood of the *dense* outputs given inputs that earlier pruning changed.

        .. math:: \min_{W'} \tfrac12 \sum_t \lVert W x_t - W' x'_t \rVert^2
                  \;\Rightarrow\; W'_* = W X^\top X' (X'^\top X')^{-1}

        The result is centred at the optimum, so losses count from there.

        Args:
            weight: Dense weights ``[do, di]``.
            gram: ``sum_t x'_t x'_t^T`` of the changed inputs.
            cross: ``sum_t x_t x'_t^T``, dense inputs in the rows.
            jitter: As of the class; it pulls towards ``weight``.

        Raises:
            InputError: Shapes or values that do not fit.
        """
        base = cls(weight, gram, jitter)
        if cross.shape != gram.shape or not bool(torch.isfinite(cross).all()):
            raise InputError(
                f"cross must be finite and have the shape {tuple(gram.shape)} of gram, "
                f"got {tuple(cross.shape)}"
            )
        target = weight @ cross.to(weight) + base.ridge * weight
        factor = cholesky(base.precision)
        return cls(torch.cholesky_solve(target.mT, factor).mT.contiguous(), gram, jitter)

    @property
    def rows(self) -> int:
        """Outputs ``do``."""
        return self.weight.shape[0]

    @property
    def size(self) -> int:
        """Inputs ``di``."""
        return self.weight.shape[1]

    @property
    def ridge(self) -> float:
        """What the jitter adds to the diagonal, nats per squared weight."""
        return self.jitter * float(self.gram.diagonal().mean())

    @cached_property
    def precision(self) -> Tensor:
        """``A``, ``[di, di]``: the Gram matrix with the jitter on its diagonal."""
        if self.jitter == 0:
            return self.gram
        precision = self.gram.clone()
        precision.diagonal().add_(self.ridge)
        return precision

    @cached_property
    def linear(self) -> Tensor:
        """``B = W A``, ``[do, di]``."""
        return self.weight @ self.precision

    def loss_increase(self, change: Tensor) -> float:
        r"""Predicted loss increase of a change of the weights, nats; without the jitter.

        .. math:: \Delta L = \tfrac12 \operatorname{tr}(\Delta A \Delta^\top)

        Args:
            change: A floating change ``W' - W`` of the weights' shape, or a boolean mask of what
                stays: ``[do, di]``, or ``[di]`` for whole columns; masked weights become zero
                without compensation.

        Raises:
            InputError: A shape that does not fit.
        """
        if change.dtype == torch.bool:
            if change.shape not in (self.weight.shape, self.weight.shape[1:]):
                raise self._misfit("mask", change)
            change = torch.where(change, 0.0, -self.weight)
        if change.shape != self.weight.shape:
            raise self._misfit("change", change)
        change = change.to(self.weight)
        return 0.5 * float(((change @ self.gram) * change).sum())

    def tempered(self, temperature: float) -> "Quadratic":
        """The same data with each nat worth ``1 / temperature``.

        Tokens of a sequence depend on each other, so they say less than their number; the
        temperature is fitted from sampled removals.

        Raises:
            InputError: A temperature that is not positive and finite.
        """
        if not (math.isfinite(temperature) and temperature > 0):
            raise InputError(f"temperature must be positive and finite, got {temperature}")
        return self._unchecked(self.weight, self.gram / temperature)

    def single(self) -> "Quadratic":
        """The same in float32."""
        return self._unchecked(self.weight.float(), self.gram.float())

    def reading(self, weight: Tensor) -> "Quadratic":
        """The same inputs, read by another matrix ``[rows, di]``.

        Raises:
            InputError: A weight of another width or dtype, or that is not finite.
        """
        fits = weight.shape[1:] == self.gram.shape[1:] and weight.dtype == self.gram.dtype
        if not fits or not bool(torch.isfinite(weight).all()):
            raise self._misfit("weight", weight)
        other = self._unchecked(weight, self.gram)
        if "precision" in vars(self):
            vars(other)["precision"] = self.precision
        return other

    def _unchecked(self, weight: Tensor, gram: Tensor) -> "Quadratic":
        """Made of what was checked before; checks of large matrices take as long as a product."""
        other = object.__new__(type(self))
        vars(other).update(weight=weight, gram=gram, jitter=self.jitter)
        return other

    def _misfit(self, what: str, got: Tensor) -> InputError:
        do, di = self.weight.shape
        return InputError(
            f"a {what} for these weights has the shape ({do}, {di})"
            f"{f' or ({di},)' if what == 'mask' else ''}, got {tuple(got.shape)}"
        )


def cholesky(matrix: Tensor) -> Tensor:
    """Lower Cholesky factor.

    Raises:
        DivergenceError: The matrix is not positive definite to working precision.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    if bool((info > 0).any()):
        raise DivergenceError(
            "the Gram matrix is not positive definite to "
            f"{str(matrix.dtype).removeprefix('torch.')} precision; raise jitter "
            "(1e-4 to 1e-2 of the mean diagonal), or use float64"
        )
    return factor


def inverse(precision: Tensor, site: Tensor) -> Tensor:
    """``(A + diag(site))^-1``, ``[di, di]``, by Cholesky after scaling to a unit diagonal.

    The scaling makes sites of any size harmless: a column whose site dominates simply decouples.
    """
    scale = (precision.diagonal() + site).rsqrt()
    scaled = precision * scale[:, None]
    scaled *= scale
    scaled.diagonal().fill_(1.0)
    result = torch.cholesky_inverse(cholesky(scaled))
    result *= scale[:, None]
    result *= scale
    return result


def _check(weight: Tensor, gram: Tensor, jitter: float) -> None:
    wrong = []
    if weight.dim() != 2 or gram.shape != (weight.shape[-1],) * 2 or weight.numel() == 0:
        raise InputError(
            "a quadratic needs weight [do, di] and gram [di, di], got "
            f"{tuple(weight.shape)} and {tuple(gram.shape)}"
        )
    if weight.dtype not in SYMMETRIC or gram.dtype != weight.dtype:
        raise InputError(
            "weight and gram must both be float32 or both float64, got "
            f"{weight.dtype} and {gram.dtype}; float64 is the safe choice"
        )
    if not (math.isfinite(jitter) and jitter >= 0):
        wrong.append(f"jitter must be at least 0 and finite, got {jitter}")
    wrong += [
        f"{name} holds NaN or infinite values"
        for name, tensor in (("weight", weight), ("gram", gram))
        if not bool(torch.isfinite(tensor).all())
    ]
    if not wrong:
        diagonal = gram.diagonal()
        if float(diagonal.min()) < 0 or float(diagonal.max()) <= 0:
            wrong.append(
                f"gram is a sum of squares, so its diagonal cannot be negative or all zero; its "
                f"smallest entry is {float(diagonal.min()):g}: are all inputs zero, or was a mean "
                "taken out of sums in float32? Clamp what is rounding, leave out what is dead"
            )
        uneven = float((gram - gram.mT).abs().max())
        if uneven > SYMMETRIC[gram.dtype] * float(diagonal.abs().max()):
            wrong.append(f"gram must be symmetric, but differs from its transpose by {uneven:g}")
    if wrong:
        raise InputError("; ".join(wrong))
