"""What inference over single weights returns, whatever its method."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.quadratic.likelihood import Quadratic
from probcomp.inference.solver import Marginals
from probcomp.priors.base import SupportPrior

Learn = Callable[[Any, Marginals], SupportPrior]
"""A step that makes a better prior from its posterior."""


@dataclass(frozen=True, eq=False)
class WeightState:
    """Where an inference may continue. Rows are scaled by the square root of their weight.

    Attributes:
        site: Site precision of each column, ``[di]``.
        linear: Site linear term, ``[do, di]``.
        mean: Posterior mean, ``[do, di]``.
        slab: Precision of kept weights.
        spike: Precision of removed weights.
        messages: Messages of the prior.
    """

    site: Tensor
    linear: Tensor
    mean: Tensor
    slab: float
    spike: float
    messages: Any = None


@dataclass(frozen=True, eq=False)
class WeightResult:
    """Inclusion and moments of every weight of a layer; tensors are ``[do, di]``.

    Attributes:
        log_odds: Posterior log-odds, nats; not clipped.
        probability: Inclusion probabilities.
        evidence: What the data say, nats; prior and field excluded.
        mean: Posterior mean of the weights, in the units of the dense ones.
        variance: Posterior variance.
        slab: Precision of kept weights, learnt or given.
        spike: Precision of removed weights.
        prior: Prior over the supports, learnt or given.
        iterations: Iterations or sweeps.
        converged: Whether no probability moved by more than the tolerance.
        change: Largest move of a probability in the last iteration.
        state: For a warm start.
        kept_mean: Mean of each weight given that it is kept; ``None`` where it is not computed.
        kept_variance: Its variance.
    """

    log_odds: Tensor
    probability: Tensor
    evidence: Tensor
    mean: Tensor
    variance: Tensor
    slab: float
    spike: float
    prior: SupportPrior | None
    iterations: int
    converged: bool
    change: float
    state: WeightState
    kept_mean: Tensor | None = None
    kept_variance: Tensor | None = None


SPIKE = 100.0
"""Default spike precision over the slab's: removed weights are a tenth as large."""


def start_state(
    start: WeightState | WeightResult | None,
    quadratic: Quadratic,
    scale: Tensor,
    slab: float | None,
    spike: float | None,
) -> WeightState:
    """The given state, or one halfway between slab and spike, with the dense weights as means.

    A slab or spike that is named takes the place of the state's.
    """
    if start is not None:
        state = start.state if isinstance(start, WeightResult) else start
        if state.linear.shape != quadratic.weight.shape:
            raise InputError(
                f"the warm start is for weights {tuple(state.linear.shape)}, these are "
                f"{tuple(quadratic.weight.shape)}"
            )
        slab = state.slab if slab is None else slab
        spike = state.spike if spike is None else spike
        if not slab < spike:
            raise InputError(
                f"the slab's precision {slab:g} must be below the spike's {spike:g}; name both, or "
                "start anew"
            )
        return replace(state, slab=slab, spike=spike)
    if slab is None:
        square = float(quadratic.weight.square().mean())
        slab = 1 / square if square > 0 else 1.0
    spike = SPIKE * slab if spike is None else spike
    middle = 2 / (1 / slab + 1 / spike)
    site = quadratic.weight.new_full((quadratic.size,), middle)
    zero = torch.zeros_like(quadratic.weight)
    return WeightState(site, zero, quadratic.weight * scale, slab, spike)


def learn_slab(
    state: WeightState, probability: Tensor, square: Tensor, with_spike: bool
) -> WeightState:
    r"""One EM step, ``1 / alpha <- sum p E[w^2 | s=1] / sum p``.

    Args:
        state: Its slab moves.
        probability: Inclusion probabilities.
        square: ``E[w^2 | s=1]`` in the units of the dense weights.
        with_spike: Whether the spike keeps its ratio to the slab; else the slab stays below it.
    """
    total = float(probability.sum())
    if total < 1.0:
        return state
    slab = total / float((probability * square).sum())
    if with_spike:
        return replace(state, slab=slab, spike=state.spike * slab / state.slab)
    return replace(state, slab=min(slab, state.spike / 2))


def weight_field(field: Tensor | float, quadratic: Quadratic) -> Tensor:
    """A field as ``[do, di]``.

    Raises:
        InputError: It does not broadcast, or is not finite.
    """
    tensor = torch.as_tensor(field, dtype=quadratic.weight.dtype, device=quadratic.weight.device)
    try:
        tensor = tensor.expand(quadratic.weight.shape)
    except RuntimeError:
        raise InputError(
            f"field must be a number or broadcast to {tuple(quadratic.weight.shape)}, got "
            f"{tuple(tensor.shape)}"
        ) from None
    if not bool(torch.isfinite(tensor).all()):
        raise InputError("field holds NaN or infinite values")
    return tensor


def row_scale(quadratic: Quadratic, rows: Tensor | None) -> Tensor:
    """Square roots of the rows' weights, ``[do, 1]``.

    Raises:
        InputError: Weights that do not fit, or are not positive and finite.
    """
    if rows is None:
        return quadratic.weight.new_ones((1, 1))
    if rows.shape != (quadratic.rows,):
        raise InputError(f"rows must have the shape ({quadratic.rows},), got {tuple(rows.shape)}")
    if not bool((torch.isfinite(rows) & (rows > 0)).all()):
        raise InputError(
            f"row weights must be positive and finite; the smallest is {float(rows.min()):g}. "
            "Floor those of dead outputs at a small share of the mean"
        )
    return rows.to(quadratic.weight).sqrt()[:, None]


def check_options(
    slab: float | None, spike: float | None, iterations: int, tolerance: float, damping: float
) -> None:
    """One error for all options that are out of range."""
    wrong = []
    if slab is not None and not 0 < slab < float("inf"):
        wrong.append(f"slab must be a positive precision, got {slab}")
    if spike is not None and not (slab or 0) < spike < float("inf"):
        wrong.append(f"spike must be a precision above the slab's, got {spike}")
    if iterations < 1:
        wrong.append(f"iterations must be at least 1, got {iterations}")
    if not tolerance > 0:
        wrong.append(f"tolerance must be positive, got {tolerance}")
    if not 0 <= damping < 1:
        wrong.append(f"damping must be in [0, 1), got {damping}")
    if wrong:
        raise InputError("; ".join(wrong))
