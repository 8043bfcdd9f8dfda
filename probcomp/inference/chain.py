r"""Sum-product on chains in log-odds form: one number for each direction of each edge. Exact.

The posterior log-odds of a site are its field, its evidence, and the messages from both sides. The
two directions obey the same recursion, so both run in one scan; the batch is vectorised.
"""

import torch
from torch import Tensor

from probcomp.inference.scan import scan
from probcomp.inference.solver import Marginals, Options, finish, solve
from probcomp.priors.base import softplus
from probcomp.priors.chain import Chain


@solve.register
def solve_chain(prior: Chain, evidence: Tensor, options: Options) -> Marginals:
    """Forward-backward."""
    extrinsic, pair, log_z = forward_backward(prior, evidence)
    return finish(evidence, extrinsic, log_z, pair=pair)


def forward_backward(prior: Chain, evidence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""``(extrinsic [*batch, N], pair [*batch, N - 1], log_z [*batch])``.

    .. math:: \ln Z = \ln p(0) + \sum_t \ln\bigl(1 + e^{\theta_t}\bigr)

    with :math:`\theta_t` the field, the evidence and the forward message of site t.
    """
    coupling, *_ = prior.pairwise(evidence)
    length = evidence.shape[-1]
    field = prior.site_field(evidence)
    base = field + evidence
    both = torch.stack([base, base.flip(-1)]).movedim(-1, 0).contiguous()  # [N, 2, *batch]
    forward, backward = scan(both, coupling).movedim(0, -1)
    backward = backward.flip(-1)
    left, right = (base + forward)[..., :-1], (base + backward)[..., 1:]
    pair = pair_probability(left, right, coupling.unsqueeze(-1))
    log_z = softplus(base + forward).sum(-1) + prior.log_zero(length, evidence)
    return field + forward + backward, pair, log_z


def pair_probability(left: Tensor, right: Tensor, coupling: Tensor) -> Tensor:
    r"""``P(1, 1)`` for two sites with cavity log-odds ``left``, ``right`` and coupling ``J``.

    .. math:: P(1,1) = \frac{e^{l + r + J}}{1 + e^l + e^r + e^{l + r + J}}
    """
    rest = torch.logaddexp(softplus(left), right)
    return torch.sigmoid(left + right + coupling - rest)
