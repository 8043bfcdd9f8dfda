"""What one forward says about the rows: features, the posterior of the end, where filler begins."""

import torch
from torch import Tensor

from probcomp.decoding.bound import Bound
from probcomp.decoding.end import allowed_ends
from probcomp.decoding.features import read_features
from probcomp.decoding.length import NEG
from probcomp.decoding.noise import uniform
from probcomp.decoding.rows import Rows
from probcomp.decoding.view import View, first_of


def look(
    bound: Bound,
    rows: Rows,
    index: Tensor,
    ids: Tensor,
    valid: Tensor,
    logits: Tensor,
    seeds: Tensor,
) -> View:
    config, length = bound.config, rows.length[index]
    noise = None
    if config.temperature > 0:
        noise = uniform(seeds[index], rows.forwards[index], ids.shape[1])
    features = read_features(
        logits,
        bound.adapter.eos_ids,
        config.delimiters,
        temperature=config.temperature,
        noise=noise,
    )
    masked = valid & (ids == rows.mask_id)
    eos = valid & torch.isin(ids, bound.eos.to(ids.device))
    view = View(index, ids, masked, valid, length, features, eos, length)
    if bound.models_end:
        _model_end(bound, rows, view)
    view.tail = _tail(bound, rows, view)
    return view


def _model_end(bound: Bound, rows: Rows, view: View) -> None:
    """Posterior of the end for open rows; closed rows (infilling) end past their canvas."""
    content = view.valid & ~view.masked & ~view.eos_committed
    allowed = allowed_ends(content, view.eos_committed, view.length)
    log_prior = bound.prior.log_end(view.length, view.width)
    # A committed token says what it says: EOS marginals of visible positions are 0 or 1.
    eos = view.features.eos
    mass = torch.where(view.masked, eos, view.eos_committed.to(eos.dtype))
    view.read_end, p_end = bound.end.read(mass, view.masked, allowed, log_prior, view.length)
    closed = ~rows.open[view.index]
    column = torch.arange(view.width + 1, device=p_end.device)
    certain = (column == view.length[:, None]).to(p_end.dtype)
    view.p_end = torch.where(closed[:, None], certain, p_end)
    view.end_weights = view.p_end.log().clamp(min=NEG)


def _tail(bound: Bound, rows: Rows, view: View) -> Tensor:
    """Where filler begins for sure: by a committed EOS, or by the posterior of the end."""
    tail = view.length
    if bound.config.stop == "none":
        return tail
    known = first_of(view.eos_committed, tail)
    if bound.config.stop == "posterior" and view.p_end is not None:
        sure = view.p_end[:, :-1].cumsum(1) >= bound.config.stop_mass
        known = torch.minimum(known, first_of(sure, tail))
    return torch.where(rows.open[view.index], known, tail)


def track_change(
    bound: Bound, rows: Rows, index: Tensor, logits: Tensor, previous: Tensor | None
) -> Tensor:
    """KLASS: count forwards in a row with KL(p_t || p_{t-1}) under its bound."""
    now = logits.log_softmax(-1)
    width = now.shape[1]
    if previous is None or previous.shape[1] < rows.ids.shape[1]:
        fresh = now.new_full((len(rows.ids), rows.ids.shape[1], now.shape[2]), torch.nan)
        if previous is not None:
            fresh[:, : previous.shape[1]] = previous
        previous = fresh
    before = previous[index, :width]
    change = torch.where(now > -torch.inf, now.exp() * (now - before), 0.0).sum(-1)
    calm = change < bound.config.stable_kl  # not a number, at a first visit, is not calm
    rows.calm[index, :width] = torch.where(calm, rows.calm[index, :width] + 1, 0)
    previous[index, :width] = now
    return previous
