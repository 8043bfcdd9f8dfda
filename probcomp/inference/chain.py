r"""Sum-product on chains in log-odds form: one number for each direction of each edge.

.. math:: m_{t \to t+1} = \ln\frac{1 + e^{J + \theta_t}}{1 + e^{\theta_t}}
          = \ln\bigl(1 + (e^J - 1)\,\sigma(\theta_t)\bigr),\qquad
          \theta_t = h_t + l_t + m_{t-1 \to t}

The two directions obey the same recursion, so both run in one scan; the batch is vectorised.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from probcomp.inference.solver import Marginals, Options, finish, solve
from probcomp.priors.chain import Chain


@solve.register
def solve_chain(prior: Chain, evidence: Tensor, options: Options) -> Marginals:
    r"""Forward-backward; exact. ``log Z = ln p(0) + sum_t softplus(theta_t)``."""
    coupling, end, interior = prior.pairwise(evidence)
    length = evidence.shape[-1]
    field = _site_fields(end, interior, evidence)
    base = field + evidence
    forward, backward = messages(base, coupling)
    extrinsic = field + forward + backward
    log_z = softplus(base + forward).sum(-1) + prior.log_zero(length, evidence)
    left, right = (base + forward)[..., :-1], (base + backward)[..., 1:]
    pair = pair_probability(left, right, coupling[..., None])
    return finish(evidence, extrinsic, log_z, pair=pair)


def messages(base: Tensor, coupling: Tensor) -> tuple[Tensor, Tensor]:
    """Messages into each site from the left and from the right, ``[*batch, N]`` each.

    Args:
        base: Field plus evidence of each site, ``[*batch, N]``.
        coupling: ``J``, ``[*batch]`` or a scalar.
    """
    both = torch.stack([base, base.flip(-1)]).movedim(-1, 0).contiguous()  # [N, 2, *batch]
    gain = torch.expm1(coupling)
    message = torch.zeros_like(both[0])
    incoming = [message]
    for theta in both[:-1]:
        message = torch.log1p(gain * torch.sigmoid(theta + message))
        incoming.append(message)
    forward, backward = torch.stack(incoming, -1)
    return forward, backward.flip(-1)


def pair_probability(left: Tensor, right: Tensor, coupling: Tensor) -> Tensor:
    r"""``P(1, 1)`` for two sites with cavity log-odds ``left``, ``right`` and coupling ``J``.

    .. math:: P(1,1) = \frac{e^{l + r + J}}{1 + e^l + e^r + e^{l + r + J}}
    """
    rest = torch.logaddexp(softplus(left), right)
    return torch.sigmoid(left + right + coupling - rest)


def _site_fields(end: Tensor, interior: Tensor, evidence: Tensor) -> Tensor:
    field = interior[..., None].expand(evidence.shape).clone()
    field[..., 0] = end
    field[..., -1] = end
    return field
