"""Supports under a prior when the evidence may be thousands of nats.

`marginals` reads evidence beyond 40 nats as 40. That changes no probability, but a budget ranks by
log-odds, and tiles sum them: so own evidence is added outside the clip, tiles are summed before
it, and counts, which only see differences, are shifted to their threshold first.
"""

from typing import Any

from torch import Tensor

from probcomp.inference.solver import Marginals
from probcomp.inference.supports import marginals
from probcomp.priors.base import SupportPrior
from probcomp.priors.blocks import Blocks
from probcomp.priors.counting import ExactK, NofM


def beliefs(
    prior: SupportPrior | None, evidence: Tensor, *, start: Any = None, **options: Any
) -> tuple[Tensor, Marginals | None]:
    """Posterior log-odds of any size, and the marginals they came from.

    Args:
        prior: A support prior, or None for log-odds of 0 on every support.
        evidence: Evidence and field, nats, ``[*batch, *event]``. A vector under a prior over two
            dimensions is its only row.
        start: Messages for a warm start.
        options: Passed to `marginals`.

    Returns:
        Log-odds in the shape of the evidence; marginals, or None without a prior.
    """
    if prior is None:
        return evidence, None
    if isinstance(prior, SupportPrior) and evidence.dim() < prior.event_dim:
        odds, result = beliefs(prior, evidence[None], start=start, **options)
        return odds[0], result
    options.setdefault("need_log_z", False)
    if isinstance(prior, Blocks):
        tiles = prior.gather(evidence)
        odds, result = beliefs(prior.over, tiles, start=start, **options)
        return prior.spread(odds, evidence.shape), result
    if isinstance(prior, ExactK | NofM):
        shift = _threshold(prior, evidence)
        result = marginals(prior, evidence - shift, start=start, **options)
        return result.extrinsic + (evidence - shift), result
    result = marginals(prior, evidence, start=start, **options)
    return result.extrinsic + evidence, result


def messages(result: Marginals | None) -> Any:
    """What to pass as ``start`` next time."""
    return None if result is None else result.state


def _threshold(prior: ExactK | NofM, evidence: Tensor) -> Tensor:
    """Halfway between the last support that fits the count and the first that does not."""
    if isinstance(prior, NofM):
        prior.groups(evidence.shape[-1])
        groups, kept = evidence.unflatten(-1, (-1, prior.m)), prior.n
    else:
        prior.check_size(evidence.shape[-1])
        groups, kept = evidence.unsqueeze(-2), prior.k
    ordered = groups.sort(-1, descending=True).values
    last, first = max(kept - 1, 0), min(kept, groups.shape[-1] - 1)
    middle = 0.5 * (ordered[..., last] + ordered[..., first])
    return middle.unsqueeze(-1).expand(groups.shape).flatten(-2)
