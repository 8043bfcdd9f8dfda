r"""Gated chains: the row's evidence is the gate's evidence, and the gate scales the row. Exact.

.. math:: \gamma = \operatorname{logit} g + \ln Z_{\rm chain}(l),\qquad
          P(s_j = 1) = \sigma(\gamma)\,P_{\rm chain}(s_j = 1)
"""

import torch
from torch import Tensor

from probcomp.inference.chain import forward_backward
from probcomp.inference.solver import Marginals, Options, finish, solve
from probcomp.priors.base import as_tensor, logit, softplus
from probcomp.priors.chain import GatedChain


@solve.register
def solve_gated(prior: GatedChain, evidence: Tensor, options: Options) -> Marginals:
    """The chain's posterior in an open row, times the posterior of the gate."""
    row, row_pair, row_log_z = forward_backward(prior.chain, evidence)
    field = logit(as_tensor(prior.gate, evidence)).expand(row_log_z.shape)
    opened = field + row_log_z
    log_z = softplus(opened) - softplus(field)
    gate = Marginals(opened, torch.sigmoid(opened), None, log_z, field)
    # Log-odds of the gate given that site j is off. The evidence of j cancels in it, so the
    # extrinsic part below does not depend on j's own evidence.
    while_off = opened[..., None] - softplus(evidence + row)
    extrinsic = row - softplus(-while_off)
    pair = gate.probability[..., None] * row_pair
    return finish(evidence, extrinsic, log_z, pair=pair, gate=gate)
