r"""Gated chains: the row's evidence is the gate's evidence, and the gate scales the row. Exact.

.. math:: \gamma = \operatorname{logit} g + \ln Z_{\rm chain}(l),\qquad
          P(s_j = 1) = \sigma(\gamma)\,P_{\rm chain}(s_j = 1)
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from probcomp.inference.chain import solve_chain
from probcomp.inference.solver import Marginals, Options, finish, solve
from probcomp.priors.base import as_tensor, logit
from probcomp.priors.chain import GatedChain


@solve.register
def solve_gated(prior: GatedChain, evidence: Tensor, options: Options) -> Marginals:
    """The chain's posterior in an open row, times the posterior of the gate."""
    row = solve_chain(prior.chain, evidence, options)
    field = logit(as_tensor(prior.gate, evidence)).expand(row.log_z.shape)
    opened = field + row.log_z
    gate = Marginals(opened, torch.sigmoid(opened), None, row.log_z, field)
    # Log-odds of the gate given that site j is off. The evidence of j cancels in it, so the
    # extrinsic part below does not depend on j's own evidence.
    while_off = opened[..., None] - softplus(row.log_odds)
    extrinsic = row.extrinsic - softplus(-while_off)
    log_z = softplus(opened) - softplus(field)
    pair = gate.probability[..., None] * row.pair
    return finish(evidence, extrinsic, log_z, pair=pair, gate=gate)
