"""Posterior over supports: one prior, one log-odds of evidence for each support."""

from typing import Any, Literal

import torch
from torch import Tensor

from probcomp.errors import InputError

# Each module enters its solver in the table on import.
from probcomp.inference import blocks, chain, counting, gated, independent, lattice, tree  # noqa: F401
from probcomp.inference.solver import Marginals, Options, solve
from probcomp.priors.base import SupportPrior, check_dims

__all__ = ["CLIP", "Marginals", "marginals"]

CLIP = 40.0  # nats; e^-40 is below the precision of every number we report


def marginals(
    prior: SupportPrior,
    log_odds: Tensor,
    *,
    start: Any = None,
    max_iterations: int = 200,
    tolerance: float | None = None,
    damping: float = 0.3,
    on_unreliable: Literal["raise", "warn", "ignore"] = "raise",
    method: Literal["auto", "exact", "loopy"] = "auto",
    need_log_z: bool = True,
) -> Marginals:
    r"""Posterior marginals of supports under a prior and independent evidence.

    .. math:: p(s \mid l) = \frac{p(s)\, e^{\langle l, s\rangle}}{Z(l)},\qquad
              Z(l) = \sum_s p(s)\, e^{\langle l, s\rangle}

    The gradient of ``log_z`` with respect to the evidence is ``probability``. Alternating with a
    weight model, pass ``log_odds`` down and ``extrinsic`` up: neither counts the other twice.

    Args:
        prior: A support prior. Chains and counts act on the last dimension, lattices and blocks
            on the last two; everything before is batch.
        log_odds: Evidence ``l`` in nats that a support is on, float32 or float64. Values beyond
            40 nats, infinities included, are read as 40 nats.
        start: ``state`` of an earlier result of the same shape, for a warm start.
        max_iterations: Limit on sweeps; ``converged`` says whether it sufficed.
        tolerance: Largest change of a message in the last sweep; by default 1e-5 in float32 and
            1e-8 in float64.
        damping: Share of the old message that is kept in a sweep, in [0, 1).
        on_unreliable: What to do with a wide lattice above coupling 1.4, where belief propagation
            fails. Under strong evidence at nearly every site it works to about 1.6: pass
            ``"ignore"`` there and check ``converged``.
        method: ``"auto"`` is exact for lattices of at most 12 sites across and loopy for wider
            ones; ``"loopy"`` trades exactness of narrow ones for speed; ``"exact"`` refuses wide
            ones. Other priors are always exact.
        need_log_z: False leaves the ``log_z`` of a loopy lattice NaN and saves a few sweeps' time.

    Raises:
        InputError: Evidence that is NaN, not floating, or does not fit the prior; bad options.
        ConvergenceError: A wide lattice above coupling 1.4 with ``on_unreliable="raise"``.

    Example:
        >>> chain = Chain(p01=0.1, p10=0.3)
        >>> result = marginals(chain, torch.tensor([2.0, 0.0, -2.0]))
        >>> result.probability.shape, result.pair.shape
        (torch.Size([3]), torch.Size([2]))
    """
    options = Options(start, max_iterations, tolerance, damping, on_unreliable, method, need_log_z)
    _check(prior, log_odds)
    _check_options(options)
    return solve(prior, log_odds.clamp(-CLIP, CLIP), options)


def _check(prior: SupportPrior, log_odds: Tensor) -> None:
    if not isinstance(prior, SupportPrior):
        raise InputError(
            f"marginals needs a support prior, got {type(prior).__name__}; "
            "for example Independent(0.1) from probcomp.priors"
        )
    if not isinstance(log_odds, Tensor) or log_odds.dtype not in (torch.float32, torch.float64):
        got = log_odds.dtype if isinstance(log_odds, Tensor) else type(log_odds).__name__
        raise InputError(f"log-odds must be a float32 or float64 tensor, got {got}")
    check_dims(prior, log_odds.shape)
    if bool(log_odds.isnan().any()):
        raise InputError(f"{int(log_odds.isnan().sum())} of {log_odds.numel()} log-odds are NaN")


def _check_options(options: Options) -> None:
    wrong = []
    if options.max_iterations < 1:
        wrong.append(f"max_iterations must be at least 1, got {options.max_iterations}")
    if options.tolerance is not None and not options.tolerance > 0:
        wrong.append(f"tolerance must be positive, got {options.tolerance:g}")
    if not 0 <= options.damping < 1:
        wrong.append(f"damping must be in [0, 1), got {options.damping:g}")
    if options.on_unreliable not in ("raise", "warn", "ignore"):
        wrong.append(f"on_unreliable must be raise, warn or ignore, got {options.on_unreliable!r}")
    if options.method not in ("auto", "exact", "loopy"):
        wrong.append(f"method must be auto, exact or loopy, got {options.method!r}")
    if wrong:
        raise InputError("; ".join(wrong))
