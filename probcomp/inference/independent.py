"""The posterior of independent supports: prior log-odds plus evidence."""

from torch import Tensor

from probcomp.inference.solver import Marginals, Options, finish, solve
from probcomp.priors.base import as_tensor, logit, softplus
from probcomp.priors.independent import Independent


@solve.register
def solve_independent(prior: Independent, evidence: Tensor, options: Options) -> Marginals:
    r"""``log Z = sum_n log(1 - d + d e^{l_n})``, over the last dimension."""
    field = logit(as_tensor(prior.density, evidence)).expand(evidence.shape)
    log_z = (softplus(field + evidence) - softplus(field)).sum(-1)
    return finish(evidence, field, log_z)
