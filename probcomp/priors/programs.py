"""The same priors inside probabilistic programs: distributions of Pyro and of NumPyro."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.priors.base import SupportPrior, check_dims
from probcomp.priors.traced import log_prob_in


def to_pyro(prior: SupportPrior, shape: Sequence[int]) -> Any:
    """The prior as a ``pyro.distributions.TorchDistribution`` over supports of ``shape``.

    The last ``prior.event_dim`` sizes are the event, the others the batch; values are floats 0
    and 1. Draws come from torch's global generator, as everywhere in Pyro.

    Example:
        >>> s = pyro.sample("s", to_pyro(Chain(0.1, 0.3), (8, 16)).to_event(1))
        >>> s.shape
        torch.Size([8, 16])
    """
    _check(prior, shape)
    return _pyro_class()(prior, torch.Size(shape))


def to_numpyro(prior: SupportPrior, shape: Sequence[int]) -> Any:
    """The prior as a ``numpyro.distributions.Distribution`` over supports of ``shape``.

       ``log_prob`` is written in ``jax.numpy``: it compiles and differentiates. Draws call this
       package's sampler on the host, seeded by the key, so they work under ``jit`` too.
    Values are int32.

       Raises:
           InputError: A prior of a type that has no ``jax.numpy`` form; enter one with
               ``probcomp.priors.traced.log_prob_in.register``.
    """
    _check(prior, shape)
    if log_prob_in.dispatch(type(prior)) is log_prob_in.dispatch(object):
        raise InputError(
            f"the prior {type(prior).__name__} has no jax.numpy form; enter one with "
            "probcomp.priors.traced.log_prob_in.register"
        )
    return _numpyro_class()(prior, tuple(int(size) for size in shape))


def _check(prior: SupportPrior, shape: Sequence[int]) -> None:
    if not isinstance(prior, SupportPrior):
        raise InputError(f"expected a support prior, got {type(prior).__name__}")
    check_dims(prior, shape)


@functools.cache
def _pyro_class() -> type:
    from pyro.distributions import TorchDistribution, constraints

    class PyroPrior(TorchDistribution):
        arg_constraints: dict[str, Any] = {}  # noqa: RUF012

        def __init__(self, prior: SupportPrior, shape: torch.Size) -> None:
            self.prior = prior
            cut = len(shape) - prior.event_dim
            super().__init__(shape[:cut], shape[cut:], validate_args=False)

        @property
        def support(self) -> Any:
            return constraints.independent(constraints.boolean, self.prior.event_dim)

        def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
            shape = (*sample_shape, *self.batch_shape, *self.event_shape)
            return self.prior.sample(shape).to(torch.get_default_dtype())

        def log_prob(self, value: Tensor) -> Tensor:
            shape = self.batch_shape + self.event_shape
            shape = torch.broadcast_shapes(value.shape, shape)
            return self.prior.log_prob(value.expand(shape))

        def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "PyroPrior":
            return PyroPrior(self.prior, torch.Size((*batch_shape, *self.event_shape)))

    return PyroPrior


@functools.cache
def _numpyro_class() -> type:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from numpyro.distributions import Distribution, constraints

    class NumPyroPrior(Distribution):
        arg_constraints: dict[str, Any] = {}  # noqa: RUF012
        pytree_aux_fields = ("prior",)

        def __init__(self, prior: SupportPrior, shape: tuple[int, ...]) -> None:
            self.prior = prior
            cut = len(shape) - prior.event_dim
            super().__init__(shape[:cut], shape[cut:], validate_args=False)

        @property
        def support(self) -> Any:
            return constraints.independent(constraints.boolean, self.prior.event_dim)

        def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
            shape = (*sample_shape, *self.batch_shape, *self.event_shape)

            def on_host(seed: Any) -> Any:
                generator = torch.Generator().manual_seed(int(seed))
                draws = self.prior.sample(shape, generator=generator)
                return draws.cpu().numpy().astype(np.int32)

            seed = jax.random.randint(key, (), 0, np.iinfo(np.int32).max)
            result = jax.ShapeDtypeStruct(shape, np.int32)
            return jax.pure_callback(on_host, result, seed, vmap_method="sequential")

        def log_prob(self, value: Any) -> Any:
            shape = self.batch_shape + self.event_shape
            value = jnp.broadcast_to(value, jnp.broadcast_shapes(jnp.shape(value), shape))
            return log_prob_in(self.prior, jnp.asarray(value, float), jnp)

    return NumPyroPrior
