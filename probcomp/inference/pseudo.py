r"""Field and coupling of a lattice from its posterior, by pseudo-likelihood.

In the symmetric parametrisation a site given its neighbours is a logistic regression,

.. math:: P(s_n = 1 \mid \text{neighbours}) = \sigma(f + J x_n),\qquad
          x_n = \sum_{m \sim n} \bigl(s_m - \tfrac12\bigr),

so the posterior probabilities serve as soft labels and inputs (Besag 1975). Matching moments
through belief propagation on the prior instead diverges near the ordering.
"""

import dataclasses

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.solver import Marginals
from probcomp.priors.lattice import Lattice

MAX_COUPLING = 1.2  # belief propagation is within 0.01 of exact marginals up to here


def learn_lattice(
    prior: Lattice,
    posterior: Marginals | Tensor,
    *,
    steps: int = 5,
    clip: float = 0.5,
    max_coupling: float = MAX_COUPLING,
    max_field: float = 10.0,
) -> Lattice:
    r"""Newton steps on the expected log pseudo-likelihood, pooled over the batch.

    .. math:: \max_{f, J}\ \sum_n \tilde p_n \ln \sigma(f + J \tilde x_n)
              + (1 - \tilde p_n) \ln \sigma(-f - J \tilde x_n)

    with :math:`\tilde p` the posterior probabilities. Neighbours enter by their means, which
    shrinks the coupling while the posterior is uncertain.

    Args:
        prior: The lattice whose posterior this is; a field for each site moves as a whole.
        posterior: ``marginals(prior, log_odds)``, or its probabilities alone.
        steps: Newton steps.
        clip: Largest change of ``f`` and of ``J`` in one step, nats.
        max_coupling: ``J`` stays in ``[0, max_coupling]``.
        max_field: ``|f|`` stays below this where the prior's field is a number.

    Raises:
        InputError: A coupling that differs over the batch, or a ``max_coupling`` below 0.
    """
    if max_coupling < 0 or steps < 1:
        raise InputError(
            f"learn_lattice needs max_coupling >= 0 and steps >= 1, got {max_coupling}, {steps}"
        )
    if isinstance(prior.coupling, Tensor) and prior.coupling.numel() > 1:
        raise InputError("learn_lattice learns one coupling; split the batch into one call each")
    with torch.no_grad():
        label = posterior if isinstance(posterior, Tensor) else posterior.probability
        label = label.double()
        around = neighbour_sum(label - 0.5)
        own = isinstance(prior.field, Tensor) and prior.field.numel() > 1
        base = torch.as_tensor(prior.field).to(label) if own else label.new_zeros(())
        field = 0.0 if own else float(prior.field)
        coupling = float(prior.coupling)
        for _ in range(steps):
            change = _newton(base + field + coupling * around, label, around)
            field += min(max(change[0], -clip), clip)
            coupling += min(max(change[1], -clip), clip)
            coupling = min(max(coupling, 0.0), max_coupling)
            field = field if own else min(max(field, -max_field), max_field)
    moved = prior.field + field if own else field
    return dataclasses.replace(prior, field=moved, coupling=coupling)


def neighbour_sum(values: Tensor) -> Tensor:
    """Sum over the up to four neighbours of each site, ``[..., R, C]``."""
    total = torch.zeros_like(values)
    total[..., 1:, :] += values[..., :-1, :]
    total[..., :-1, :] += values[..., 1:, :]
    total[..., :, 1:] += values[..., :, :-1]
    total[..., :, :-1] += values[..., :, 1:]
    return total


def _newton(score: Tensor, label: Tensor, around: Tensor) -> tuple[float, float]:
    """Newton step of the two-parameter logistic regression, with a ridge for flat directions."""
    expected = torch.sigmoid(score)
    residual, weight = label - expected, expected * (1 - expected)
    gradient = torch.stack([residual.sum(), (residual * around).sum()])
    mixed = (weight * around).sum()
    ridge = 1e-6 * label.numel()
    first, second = weight.sum() + ridge, (weight * around.square()).sum() + ridge
    determinant = first * second - mixed * mixed
    change_field = (second * gradient[0] - mixed * gradient[1]) / determinant
    change_coupling = (first * gradient[1] - mixed * gradient[0]) / determinant
    return float(change_field), float(change_coupling)
