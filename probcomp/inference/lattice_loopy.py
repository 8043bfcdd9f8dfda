r"""Marginals of wide lattices by damped belief propagation; approximate, and says so."""

import warnings

import torch
from torch import Tensor

from probcomp.errors import ConvergenceError
from probcomp.inference.bethe import pair_probabilities, prior_log_z, with_gradient
from probcomp.inference.lattice_messages import ODDS_LIMIT, add_incoming, differentiable, run
from probcomp.inference.lattice_sweeps import run_rows_and_columns
from probcomp.inference.solver import Marginals, Options, finish
from probcomp.priors.base import over_batch
from probcomp.priors.lattice import Lattice

RELIABLE_COUPLING = 1.4  # the Bethe approximation orders at 4 artanh(1/3) = 1.386


def solve_loopy(prior: Lattice, evidence: Tensor, options: Options) -> Marginals:
    """Damped flooding from ``options.start``; ``log_z`` is the Bethe difference to no evidence."""
    _refuse_strong(prior, options)
    field = prior.site_field(evidence).expand(evidence.shape)
    coupling = over_batch(prior.coupling, evidence, 2)
    clipped = (field + evidence).clamp(-ODDS_LIMIT, ODDS_LIMIT)
    with torch.no_grad():
        # Launches cost more than passes over memory on a GPU: there, whole rows and columns.
        pass_messages = run_rows_and_columns if evidence.is_cuda else run
        messages, converged, sweeps = pass_messages(clipped.detach(), coupling.detach(), options)
    if torch.is_grad_enabled() and (clipped.requires_grad or coupling.requires_grad):
        live = differentiable(messages, clipped.exp(), coupling.exp())
    else:
        live = messages
    extrinsic = add_incoming(field, live)
    pair = pair_probabilities(clipped.exp(), coupling.exp(), live)
    if options.need_log_z:
        surplus = (field + evidence - clipped).clamp_min(0).sum((-2, -1))
        log_z = with_gradient(clipped, coupling, messages) + surplus
        log_z = (log_z - prior_log_z(prior, evidence, options)).to(evidence.dtype)
    else:
        log_z = torch.full_like(evidence[..., 0, 0], torch.nan)
    return finish(
        evidence, extrinsic, log_z, pair=pair,
        converged=converged, exact=False, iterations=sweeps, state=messages,
    )  # fmt: skip


def _refuse_strong(prior: Lattice, options: Options) -> None:
    if options.on_unreliable == "ignore":
        return
    strongest = float(torch.as_tensor(prior.coupling).detach().abs().max())
    if strongest <= RELIABLE_COUPLING:
        return
    message = (
        f"belief propagation on a wide lattice is unreliable at coupling {strongest:g}, above "
        f"{RELIABLE_COUPLING}; lower the coupling, use Blocks, or method='exact' for at most 12 "
        "sites across. Strong evidence at nearly every site breaks the symmetry and makes it "
        "work up to about 1.6: pass on_unreliable='ignore' then, and check `converged`"
    )
    if options.on_unreliable == "raise":
        raise ConvergenceError(message)
    warnings.warn(message, RuntimeWarning, stacklevel=4)
