"""Probes against closed-form Fisher matrices, losses against PyTorch's, divergences against KL."""

import pytest
import torch
from torch.nn import functional as F

from probcomp.errors import InputError
from probcomp.evidence.fisher import IGNORED, Categorical, Gaussian

DRAWS = 20_000
SPREAD = 5.0  # standard errors of a mean over the draws


def fisher_by_probes(likelihood, outputs, targets) -> torch.Tensor:
    """Mean outer product of probe gradients for one sample, [d, d]."""
    generator = torch.Generator().manual_seed(0)
    many = outputs.expand(DRAWS, *outputs.shape[1:]).clone().requires_grad_()
    labels = targets.expand(DRAWS, *targets.shape[1:])
    (g,) = torch.autograd.grad(likelihood.probe(many, labels, generator), many)
    g = g.flatten(1)
    return g.T @ g / DRAWS


def test_gaussian_probes_have_the_identity_over_the_variance() -> None:
    z = torch.randn(1, 4, dtype=torch.float64)
    found = fisher_by_probes(Gaussian(deviation=2.0), z, z)
    error = (found - torch.eye(4) / 4).abs().max()
    assert float(error) < SPREAD * (2 / DRAWS) ** 0.5 / 4  # variance of a squared normal is 2


def test_categorical_probes_have_the_fisher_matrix_of_a_softmax() -> None:
    z = torch.tensor([[1.0, -0.5, 0.3, 0.0]], dtype=torch.float64)
    p = z.softmax(-1)[0]
    found = fisher_by_probes(Categorical(), z, torch.zeros(1, dtype=torch.long))
    expected = torch.diag(p) - torch.outer(p, p)
    assert float((found - expected).abs().max()) < SPREAD * (0.25 / DRAWS) ** 0.5


def test_probes_of_language_models_leave_padding_and_the_last_position_alone() -> None:
    z = torch.randn(2, 4, 5, requires_grad=True)
    labels = torch.tensor([[1, 2, 3, 4], [1, 2, IGNORED, IGNORED]])
    likelihood = Categorical(shift=True, unit="token")
    value = likelihood.probe(z, labels, torch.Generator().manual_seed(0))
    (g,) = torch.autograd.grad(value, z)
    used = g.abs().sum(-1) > 0
    assert used.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert likelihood.units(z, labels) == 4
    expected = F.cross_entropy(z[:, :-1].transpose(1, 2), labels[:, 1:])
    torch.testing.assert_close(likelihood.loss(z, labels), expected)


def test_losses_are_the_usual_ones() -> None:
    z, y = torch.randn(3, 4), torch.randn(3, 4)
    expected = 0.5 * ((z - y) / 2).square().sum(1).mean()
    torch.testing.assert_close(Gaussian(2.0).loss(z, y), expected)
    labels = torch.tensor([0, 3, 1])
    torch.testing.assert_close(Categorical().loss(z, labels), F.cross_entropy(z, labels))


@pytest.mark.parametrize("soft", [True, False])
def test_divergence_is_that_of_kullback_and_leibler(soft: bool) -> None:
    z, dense = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    targets = dense.softmax(-1) if soft else torch.tensor([0, 1, 2])
    likelihood = Categorical(soft=soft)
    found = likelihood.divergence(z, dense, targets)
    expected = F.kl_div(z.log_softmax(-1), dense.softmax(-1), reduction="batchmean")
    torch.testing.assert_close(found, expected)
    if soft:
        torch.testing.assert_close(likelihood.loss(z, targets), expected)
    assert float(likelihood.divergence(dense, dense, targets)) == pytest.approx(0, abs=1e-12)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(InputError, match="do not fit targets"):
        Gaussian().loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(InputError, match="do not fit labels"):
        Categorical().loss(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("shift", [False, True])
def test_outputs_in_half_precision_are_scored_in_single(shift: bool) -> None:
    """The divergence of a small removal is less than the rounding of half precision."""
    generator = torch.Generator().manual_seed(0)
    dense = (8 * torch.randn(4, 6, 9, generator=generator)).bfloat16()
    found = (dense.float() + 0.05 * torch.randn(4, 6, 9, generator=generator)).bfloat16()
    labels = torch.randint(9, (4, 6), generator=generator)
    likelihood = Categorical(shift=shift, unit="token", softness=2.0)
    for kind in (likelihood, Gaussian()):
        half = kind.divergence(found, dense, labels)
        single = kind.divergence(found.float(), dense.float(), labels)
        assert half.dtype == torch.float32
        assert torch.equal(half, single)
    own = likelihood.loss(dense, labels)
    assert torch.equal(own, likelihood.loss(dense.float(), labels))
    assert likelihood.probe(dense, labels, generator).dtype == torch.float32


def test_where_nothing_counts_nothing_is_lost() -> None:
    labels = torch.full((2, 4), IGNORED)
    z = torch.randn(2, 4, 5)
    assert float(Categorical(unit="token").divergence(z, 2 * z, labels)) == 0


def test_one_output_may_have_no_dimension_of_its_own_in_the_targets() -> None:
    z, y = torch.randn(5, 1), torch.randn(5)
    torch.testing.assert_close(Gaussian().loss(z, y), 0.5 * (z[:, 0] - y).square().mean())
