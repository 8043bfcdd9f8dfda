"""What every support prior has to satisfy, as tests to inherit.

    class TestMyPrior(PriorContract):
        def prior(self):
            return MyPrior(0.3)

        shape = (8,)

The solver for ``MyPrior`` is held to the sum over all supports of ``shape``, so keep that small.
"""

import copy
import dataclasses
import math
from abc import abstractmethod

import pytest
import torch
from torch import Tensor

from probcomp.errors import InputError
from probcomp.inference.supports import CLIP, Marginals, marginals
from probcomp.priors import to_numpyro, to_pyro
from probcomp.priors.base import SupportPrior
from probcomp.testing.enumeration import all_supports, enumerate_posterior

FAILURE_BUDGET = 1e-6
"""Chance that a right sampler fails ``test_samples_match_marginals``, all its sites together."""

SAMPLES = 4000


class PriorContract:
    """Inherit, name the class ``Test...``, and fill ``prior`` and ``shape``.

    Attributes:
        shape: Support of one event, no batch, at most 12 sites.
        tolerance: On probabilities against enumeration: rounding of sums of ``2^n`` terms.
        log_z_tolerance: On ``log_z`` and on the sum of probabilities.
        float32_tolerance: On probabilities in float32 against float64.
    """

    shape: tuple[int, ...] = (8,)
    tolerance = 1e-12
    log_z_tolerance = 1e-10
    float32_tolerance = 2e-5

    @abstractmethod
    def prior(self) -> SupportPrior:
        """The prior under test, with float parameters."""
        raise NotImplementedError

    def evidence(self, seed: int, *batch: int, scale: float = 2.0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return scale * torch.randn(*batch, *self.shape, generator=generator, dtype=torch.float64)

    def solve(self, evidence: Tensor) -> Marginals:
        return marginals(self.prior(), evidence)

    def test_is_a_frozen_value(self) -> None:
        prior = self.prior()
        assert dataclasses.is_dataclass(prior)
        name = dataclasses.fields(prior)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(prior, name, None)
        assert copy.deepcopy(prior) == prior
        assert hash(self.prior()) == hash(prior)

    def test_probabilities_sum_to_one(self) -> None:
        prior = self.prior()
        log_prob = prior.log_prob(all_supports(*self.shape))
        assert log_prob.shape == (2 ** math.prod(self.shape),)
        assert torch.logsumexp(log_prob, 0).item() == pytest.approx(0, abs=self.log_z_tolerance)

    @pytest.mark.parametrize("seed", range(5))
    def test_marginals_match_enumeration(self, seed: int) -> None:
        evidence = self.evidence(seed)
        result, truth = self.solve(evidence), enumerate_posterior(self.prior(), evidence)
        torch.testing.assert_close(
            result.probability, truth.probability, rtol=0, atol=self.tolerance
        )
        torch.testing.assert_close(result.log_z, truth.log_z, rtol=0, atol=self.log_z_tolerance)
        torch.testing.assert_close(result.log_odds, evidence + result.extrinsic)

    def test_no_evidence_changes_nothing(self) -> None:
        result = self.solve(torch.zeros(self.shape, dtype=torch.float64))
        assert result.log_z.item() == pytest.approx(0, abs=self.log_z_tolerance)

    def test_gradient_of_log_z_is_the_probability(self) -> None:
        evidence = self.evidence(11).requires_grad_()
        result = self.solve(evidence)
        (gradient,) = torch.autograd.grad(result.log_z, evidence)
        torch.testing.assert_close(gradient, result.probability, rtol=0, atol=self.tolerance * 10)

    def test_extrinsic_ignores_own_evidence(self) -> None:
        evidence = self.evidence(12)
        jacobian = torch.autograd.functional.jacobian(
            lambda l: self.solve(l).extrinsic.flatten(), evidence
        )
        own = jacobian.flatten(1).diagonal()
        torch.testing.assert_close(own, torch.zeros_like(own), rtol=0, atol=1e-8)

    def test_log_z_is_monotone_and_convex(self) -> None:
        evidence, direction = self.evidence(13), self.evidence(14).abs()
        line = torch.linspace(-2, 2, 21, dtype=torch.float64)
        values = torch.stack([self.solve(evidence + t * direction).log_z for t in line])
        slopes = values.diff()
        assert slopes.min() >= -self.log_z_tolerance
        assert slopes.diff().min() >= -self.log_z_tolerance

    def test_batch_is_one_by_one(self) -> None:
        evidence = self.evidence(15, 2, 3)
        order = torch.tensor([2, 0, 1])
        result, permuted = self.solve(evidence), self.solve(evidence[:, order])
        torch.testing.assert_close(permuted.probability, result.probability[:, order])
        torch.testing.assert_close(permuted.log_z, result.log_z[:, order])
        single = self.solve(evidence[1, 2])
        torch.testing.assert_close(single.probability, result.probability[1, 2])
        assert result.log_z.shape == (2, 3)

    def test_float32_agrees(self) -> None:
        evidence = self.evidence(16, 4)
        single, double = self.solve(evidence.float()), self.solve(evidence)
        assert single.log_odds.dtype == single.log_z.dtype == torch.float32
        torch.testing.assert_close(
            single.probability.double(), double.probability, rtol=0, atol=self.float32_tolerance
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_extreme_evidence_stays_finite(self, dtype: torch.dtype) -> None:
        evidence = self.evidence(17).to(dtype).flatten()
        evidence[0], evidence[-1], evidence[1] = torch.inf, -torch.inf, 1e30
        evidence = evidence.view(self.shape)
        result = self.solve(evidence)
        clipped = self.solve(evidence.clamp(-CLIP, CLIP))
        assert bool(result.log_odds.isfinite().all())
        assert bool(result.log_z.isfinite().all())
        assert torch.equal(result.log_odds, clipped.log_odds)
        assert bool(((result.probability >= 0) & (result.probability <= 1)).all())

    def test_samples_match_marginals(self) -> None:
        prior = self.prior()
        generator = torch.Generator().manual_seed(3)
        draws = prior.sample((SAMPLES, *self.shape), generator=generator)
        assert draws.dtype == torch.bool
        again = prior.sample((SAMPLES, *self.shape), generator=torch.Generator().manual_seed(3))
        assert torch.equal(draws, again)
        supports = all_supports(*self.shape).flatten(1)
        weight = prior.log_prob(supports.view(-1, *self.shape)).exp()
        seen = draws.double().flatten(1)
        # Every site and every pair of sites, against the sum over supports.
        expected = (supports * weight[:, None]).T @ supports
        found = seen.T @ seen / SAMPLES
        spread = (expected * (1 - expected) / SAMPLES).clamp_min(0).sqrt()
        # Bonferroni over the pairs; 0.5 / SAMPLES is the continuity correction.
        level = FAILURE_BUDGET / expected.numel()
        bound = spread * math.sqrt(2 * math.log(2 / level)) + 2 / SAMPLES
        assert bool(((found - expected).abs() <= bound).all())

    def test_pyro_agrees(self) -> None:
        prior, supports = self.prior(), all_supports(*self.shape)
        distribution = to_pyro(prior, (3, *self.shape))
        assert distribution.event_shape == self.shape[len(self.shape) - prior.event_dim :]
        drawn = distribution.sample((2,))
        assert drawn.shape == (2, 3, *self.shape)
        assert distribution.log_prob(drawn).shape == (2, 3)
        torch.testing.assert_close(
            to_pyro(prior, self.shape).log_prob(supports), prior.log_prob(supports)
        )

    def test_numpyro_agrees(self) -> None:
        import jax
        import numpy as np

        prior, supports = self.prior(), all_supports(*self.shape)
        distribution = to_numpyro(prior, (3, *self.shape))
        drawn = distribution.sample(jax.random.key(0), (2,))
        assert drawn.shape == (2, 3, *self.shape)
        log_prob = jax.jit(distribution.log_prob)(drawn)
        ours = prior.log_prob(torch.tensor(np.asarray(drawn)).double())
        np.testing.assert_allclose(np.asarray(log_prob), ours.numpy(), rtol=1e-5, atol=1e-5)
        all_theirs = to_numpyro(prior, self.shape).log_prob(supports.numpy())
        np.testing.assert_allclose(all_theirs, prior.log_prob(supports), rtol=1e-5, atol=1e-5)

    def test_refuses_what_is_no_evidence(self) -> None:
        prior, evidence = self.prior(), self.evidence(18)
        evidence.view(-1)[0] = torch.nan
        with pytest.raises(InputError, match="NaN"):
            marginals(prior, evidence)
        with pytest.raises(InputError, match="float"):
            marginals(prior, torch.zeros(self.shape, dtype=torch.int64))
        with pytest.raises(InputError, match="dimension"):
            marginals(prior, torch.zeros(()))

    def test_refuses_what_is_no_support(self) -> None:
        with pytest.raises(InputError, match="zeros and ones"):
            self.prior().log_prob(torch.full(self.shape, 0.5))
        with pytest.raises(InputError, match="dimension"):
            self.prior().sample(())
