"""Sums over supports in jax against enumeration, and their gradients against marginals."""

import itertools
import math

import numpy as np
import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference import marginals
from probcomp.inference.support_sums import log_sum
from probcomp.priors import Chain, ExactK, GatedChain, Independent, Lattice

CASES = [
    (Independent(0.3), (7,)),
    (Chain(0.2, 0.4), (1,)),
    (Chain(0.1, 0.3), (8,)),
    (GatedChain(0.4, Chain(0.1, 0.3)), (8,)),
    (Lattice(-0.4, 0.9), (3, 4)),
    (Lattice(0.5, 1.3), (2, 5)),
]
FLOAT64 = 1e-9
"""Sums of thousands of terms in double precision."""


def odds(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, shape)


@pytest.mark.parametrize(("prior", "shape"), CASES)
def test_against_enumeration_and_marginals(prior, shape) -> None:
    import jax
    import numpyro

    numpyro.enable_x64()
    l = odds(shape)
    every = itertools.product((0, 1), repeat=math.prod(shape))
    supports = np.array(list(every)).reshape(-1, *shape)
    log_prior = prior.log_prob(torch.tensor(supports, dtype=torch.float64)).numpy()
    terms = log_prior + (supports * l).reshape(len(supports), -1).sum(1)
    exact = float(np.logaddexp.reduce(terms))
    value, gradient = jax.value_and_grad(lambda v: log_sum(prior, v))(l)
    assert float(value) == pytest.approx(exact, abs=FLOAT64)
    weight = np.exp(terms - exact)
    expected = (weight.reshape(-1, *[1] * len(shape)) * supports).sum(0)
    np.testing.assert_allclose(gradient, expected, atol=FLOAT64)
    if not isinstance(prior, Lattice):  # there message passing is exact
        ours = marginals(prior, torch.tensor(l)).probability
        np.testing.assert_allclose(gradient, ours, atol=FLOAT64)


@pytest.mark.parametrize(("prior", "shape"), CASES)
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-10)])
def test_jax_and_torch_agree(prior, shape, dtype, bound) -> None:
    """The two libraries' own sums and marginals, in single and in double precision."""
    import jax

    l = odds(shape).astype(dtype)
    with jax.enable_x64(dtype == "float64"):
        value, gradient = jax.value_and_grad(lambda v: log_sum(prior, v))(jax.numpy.asarray(l))
    assert str(value.dtype) == dtype
    ours = marginals(prior, torch.tensor(l))  # these lattices are narrow: exact
    assert float(value) == pytest.approx(float(ours.log_z), abs=bound, rel=bound)
    np.testing.assert_allclose(gradient, ours.probability.numpy(), rtol=0, atol=bound)


@pytest.mark.parametrize("prior", [Chain(0.1, 0.3), GatedChain(0.4, Chain(0.1, 0.3))], ids=repr)
def test_single_precision_odds_where_double_is_the_default(prior) -> None:
    import jax

    with jax.enable_x64(True):
        value = log_sum(prior, jax.numpy.asarray(odds((8,)), dtype="float32"))
    assert float(value) == pytest.approx(
        float(marginals(prior, torch.tensor(odds((8,)))).log_z), abs=1e-5
    )


def test_what_cannot_be_summed_is_refused() -> None:
    with pytest.raises(InputError, match="ExactK"):
        log_sum(ExactK(2), odds((5,)))
    with pytest.raises(InputError, match="too wide"):
        log_sum(Lattice(0.0, 1.0), odds((5, 5)))
    with pytest.raises(InputError, match="numbers"):
        log_sum(Independent(torch.full((5,), 0.3)), odds((5,)))
