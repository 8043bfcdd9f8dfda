r"""Trees: one pass towards the roots and one back, level by level. Exact.

A node passes to its parent what its subtree says, for the parent on (``q``) and off (``r``):

.. math:: \mu_x = \ln\bigl(1 - q_x + q_x e^{\theta}\bigr),\qquad m = \mu_1 - \mu_0,\qquad
          \theta = l + \sum_{\rm children} m
"""

import torch
from torch import Tensor

from probcomp.inference.solver import Marginals, Options, finish, solve
from probcomp.priors.base import as_tensor, logit, softplus
from probcomp.priors.tree import Tree


@solve.register
def solve_tree(prior: Tree, evidence: Tensor, options: Options) -> Marginals:
    """Batch vectorised; ``log Z`` collects what each subtree gives its parent while off."""
    prior.check_size(evidence.shape[-1])
    parents = torch.tensor(prior.parents, device=evidence.device)
    density, on, off = (
        as_tensor(p, evidence).expand(evidence.shape)
        for p in (prior.density, prior.persistence, prior.leak)
    )
    levels = [torch.tensor(level, device=evidence.device) for level in prior.levels]
    tables = _Tables(on, off)

    # Towards the roots. Out of place, so that autograd can follow.
    below = torch.zeros_like(evidence)  # sum of the children's messages
    message = torch.zeros_like(evidence)
    log_z = torch.zeros_like(evidence[..., 0])
    for nodes in reversed(levels[1:]):
        theta = (evidence + below)[..., nodes]
        while_on, while_off = tables.upward(theta, nodes)
        message = message.index_copy(-1, nodes, while_on - while_off)
        below = below.index_add(-1, parents[nodes], while_on - while_off)
        log_z = log_z + while_off.sum(-1)
    roots = levels[0]
    field = logit(density[..., roots])
    log_z = log_z + (softplus(field + (evidence + below)[..., roots]) - softplus(field)).sum(-1)

    # Away from the roots: what a node hears from above.
    above = torch.zeros_like(evidence).index_copy(-1, roots, field)
    pair = torch.zeros_like(evidence)
    pair = pair.index_copy(-1, roots, torch.sigmoid(field + (evidence + below)[..., roots]))
    for nodes in levels[1:]:
        belief = (above + evidence + below)[..., parents[nodes]]
        cavity = belief - message[..., nodes]
        above = above.index_copy(-1, nodes, tables.downward(cavity, nodes))
        # Given the parent is on, the child's log-odds are logit q + theta.
        child = tables.logit_on(nodes) + (evidence + below)[..., nodes]
        joint = torch.sigmoid(belief) * torch.sigmoid(child)
        pair = pair.index_copy(-1, nodes, joint)
    return finish(evidence, above + below, log_z, pair=pair)


class _Tables:
    """Log probabilities of a child given its parent, ``[*batch, N]`` each.

    The ends 0 and 1 are moved by the smallest normal number, which no result can show; that keeps
    infinities, whose gradients are NaN, out of the passes.
    """

    def __init__(self, on: Tensor, off: Tensor) -> None:
        tiny = torch.finfo(on.dtype).tiny
        self.log_on, self.log_not_on = on.log(), (1 - on).clamp_min(tiny).log()
        self.log_off, self.log_not_off = off.clamp_min(tiny).log(), torch.log1p(-off)

    def upward(self, theta: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """What a subtree with log-odds ``theta`` gives its parent while on and while off."""
        while_on = torch.logaddexp(self.log_not_on[..., nodes], self.log_on[..., nodes] + theta)
        while_off = torch.logaddexp(self.log_not_off[..., nodes], self.log_off[..., nodes] + theta)
        return while_on, while_off

    def downward(self, parent: Tensor, nodes: Tensor) -> Tensor:
        """Log-odds of a child under the log-odds of its parent without the child's message."""
        on = torch.logaddexp(parent + self.log_on[..., nodes], self.log_off[..., nodes])
        off = torch.logaddexp(parent + self.log_not_on[..., nodes], self.log_not_off[..., nodes])
        return on - off

    def logit_on(self, nodes: Tensor) -> Tensor:
        return (self.log_on - self.log_not_on)[..., nodes]
