"""Priors inside Pyro and NumPyro programs."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.priors import Chain, Lattice, SupportPrior, to_numpyro, to_pyro


def test_pyro_program_scores_with_the_prior() -> None:
    import pyro
    from pyro import poutine

    prior = Chain(0.1, 0.3)

    def program() -> Tensor:
        with pyro.plate("rows", 3):
            return pyro.sample("s", to_pyro(prior, (6,)))

    pyro.set_rng_seed(0)
    trace = poutine.trace(program).get_trace()
    assert trace.nodes["s"]["value"].shape == (3, 6)
    expected = prior.log_prob(trace.nodes["s"]["value"]).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_numpyro_program_scores_with_the_prior_and_differentiates() -> None:
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer.util import log_density

    prior = Lattice(-0.3, 0.9)

    def program() -> None:
        s = numpyro.sample("s", to_numpyro(prior, (3, 4)))
        scale = jnp.where(s == 1, 1.0, 0.1)
        numpyro.sample("w", dist.Normal(0, scale).to_event(2))

    support = jax.random.bernoulli(jax.random.key(1), 0.5, (3, 4)).astype(int)
    weight = jnp.ones((3, 4)) * 0.2

    def density(w: jax.Array) -> jax.Array:
        return log_density(program, (), {}, {"s": support, "w": w})[0]

    ours = prior.log_prob(torch.tensor(support.tolist()).double()).item()
    normal = dist.Normal(0, jnp.where(support == 1, 1.0, 0.1)).log_prob(weight).sum()
    assert float(density(weight)) == pytest.approx(ours + float(normal), abs=1e-4)
    assert bool(jnp.isfinite(jax.jit(jax.grad(density))(weight)).all())


def test_numpyro_draws_depend_on_the_key_only_and_compile() -> None:
    import jax
    import numpy as np

    distribution = to_numpyro(Chain(0.1, 0.3), (50,))
    one = jax.jit(lambda key: distribution.sample(key, (20,)))(jax.random.key(0))
    np.testing.assert_array_equal(one, distribution.sample(jax.random.key(0), (20,)))
    assert bool((one != distribution.sample(jax.random.key(1), (20,))).any())


def test_a_prior_without_a_traced_form_is_refused() -> None:
    @dataclasses.dataclass(frozen=True, eq=False)
    class Foreign(SupportPrior):
        rate: float

        def log_prob(self, support: Tensor) -> Tensor:
            return support.sum(-1)

        def sample(
            self, shape: Sequence[int], *, generator: torch.Generator | None = None
        ) -> Tensor:
            return torch.zeros(tuple(shape), dtype=torch.bool)

    with pytest.raises(InputError, match="Foreign has no jax"):
        to_numpyro(Foreign(0.1), (4,))
    assert to_pyro(Foreign(0.1), (2, 4)).batch_shape == (2,)


def test_shapes_too_small_for_the_event_are_refused() -> None:
    for convert in (to_pyro, to_numpyro):
        with pytest.raises(InputError, match="at least 2"):
            convert(Lattice(0.0, 1.0), (4,))
        with pytest.raises(InputError, match="support prior"):
            convert(0.5, (4,))
