r"""Sums over all supports, in ``jax.numpy``: what lets a sampler see weights only.

.. math:: \ln Z(l) = \ln \sum_s p(s)\, e^{\langle l, s \rangle}

under the normalised prior. With ``l`` the evidence of each weight, the prior of the weights alone
is :math:`\ln p(w) = \sum_n \ln p(w_n \mid 0) + \ln Z(l(w))`, and the gradient of ``ln Z`` is
:math:`P(s_n = 1 \mid w)`. Chains by a forward recursion, narrow lattices by a transfer matrix over
the states of a row. They compile and differentiate.
"""

import functools
from typing import Any

import numpy as np
from torch import Tensor

from probcomp.errors import InputError
from probcomp.priors import Chain, GatedChain, Independent, Lattice
from probcomp.priors.base import SupportPrior
from probcomp.priors.lattice import grid_degree

Array = Any
WIDEST = 4
"""Most columns of a lattice; a transfer matrix has ``4^columns`` entries."""


@functools.singledispatch
def log_sum(prior: SupportPrior, log_odds: Array) -> Array:
    """``ln Z`` of log-odds [*event], nats.

    Raises:
        InputError: A prior without such a form, parameters that are tensors, a wide lattice.
    """
    raise InputError(
        f"no sum over supports is written for {type(prior).__name__}; use Independent, Chain, "
        f"GatedChain, or a Lattice of at most {WIDEST} rows or columns"
    )


@log_sum.register
def _independent(prior: Independent, log_odds: Array) -> Array:
    import jax.numpy as jnp

    density = _number(prior.density)
    return jnp.logaddexp(jnp.log(density) + log_odds, jnp.log1p(-density)).sum()


@log_sum.register
def _chain(prior: Chain, log_odds: Array) -> Array:
    import jax
    import jax.numpy as jnp

    p01, p10 = _number(prior.p01), _number(prior.p10)
    on = p01 / (p01 + p10)
    start = jnp.stack([jnp.log1p(-on), jnp.log(on) + log_odds[0]])
    # [before, after], in the precision of the odds: a scan's state may not change its own
    step = jnp.log(jnp.array([[1 - p01, p01], [p10, 1 - p10]], dtype=start.dtype))

    def forward(state: Array, odds: Array) -> tuple[Array, None]:
        new = jax.nn.logsumexp(state[:, None] + step, 0)
        return new + jnp.stack([jnp.zeros_like(odds), odds]), None

    last, _ = jax.lax.scan(forward, start, log_odds[1:])
    return jax.nn.logsumexp(last)


@log_sum.register
def _gated(prior: GatedChain, log_odds: Array) -> Array:
    import jax.numpy as jnp

    gate = _number(prior.gate)
    return jnp.logaddexp(jnp.log(gate) + _chain(prior.chain, log_odds), jnp.log1p(-gate))


@log_sum.register
def _lattice(prior: Lattice, log_odds: Array) -> Array:
    import jax
    import jax.numpy as jnp

    if min(log_odds.shape) > WIDEST:
        raise InputError(
            f"a lattice of {log_odds.shape} is too wide: at most {WIDEST} rows or columns"
        )
    if log_odds.shape[1] > log_odds.shape[0]:
        log_odds = log_odds.T
    rows, columns = log_odds.shape
    field, coupling = _number(prior.field), _number(prior.coupling)
    states = (np.arange(2**columns)[:, None] >> np.arange(columns)) & 1  # [states, columns]
    across = coupling * (states[:, 1:] * states[:, :-1]).sum(1)
    down = coupling * (states @ states.T)
    degree = grid_degree(rows, columns).numpy()

    def total(odds: Array) -> Array:
        site = field - 0.5 * coupling * degree + odds
        local = site @ states.T + across  # [rows, states]

        def forward(state: Array, here: Array) -> tuple[Array, None]:
            return jax.nn.logsumexp(state[:, None] + down, 0) + here, None

        last, _ = jax.lax.scan(forward, local[0], local[1:])
        return jax.nn.logsumexp(last)

    return total(log_odds) - total(jnp.zeros_like(log_odds))


def _number(value: float | Tensor) -> float:
    if isinstance(value, Tensor) and value.dim():
        raise InputError("a sum over supports needs parameters that are numbers, got a tensor")
    return float(value)
