"""Validation and equality that all priors share."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.inference.supports import marginals
from probcomp.priors import (
    Blocks,
    Chain,
    ExactK,
    GatedChain,
    Independent,
    Lattice,
    NofM,
    SpikeSlabGamma,
    SpikeSlabGaussian,
    SupportPrior,
    Tree,
)
from probcomp.priors.base import log_binomial, logit, softplus

BAD = {
    "density above one": (
        lambda: Independent(10.0),
        r"density is a probability in \(0, 1\), got 10",
    ),
    "density zero": (lambda: Independent(0.0), "density"),
    "density NaN": (lambda: Independent(float("nan")), "density"),
    "density text": (lambda: Independent("0.1"), "must be a number"),
    "density bool": (lambda: Independent(True), "must be a number"),
    "density integers": (lambda: Independent(torch.tensor([0, 1])), "floating tensor"),
    "tensor out of range": (lambda: Independent(torch.tensor([0.5, 1.5])), "values in"),
    "p10 one": (lambda: Chain(0.1, 1.0), "p10"),
    "shapes": (lambda: Chain(torch.full((2,), 0.1), torch.full((3,), 0.1)), "broadcast"),
    "field": (lambda: Lattice(float("inf"), 1.0), "field must be finite"),
    "coupling": (lambda: Lattice(0.0, float("nan")), "coupling must be finite"),
    "chain of a gate": (lambda: GatedChain(0.5, Independent(0.1)), "must be a Chain"),
    "tile": (lambda: Blocks(4, Independent(0.1)), "pair"),
    "tile zero": (lambda: Blocks((0, 4), Independent(0.1)), "at least 1"),
    "over": (lambda: Blocks((4, 4), 0.1), "support prior"),
    "n above m": (lambda: NofM(5, 4), "at most m"),
    "n float": (lambda: NofM(2.0, 4), "integer"),
    "k negative": (lambda: ExactK(-1), "at least 0"),
    "parent index": (lambda: Tree((-1, 7), 0.5, 0.5), "index 7"),
    "cycle": (lambda: Tree((-1, 2, 1), 0.5, 0.5), "2 of 3 nodes lie on a cycle"),
    "no nodes": (lambda: Tree((), 0.5, 0.5), "no nodes"),
    "persistence": (lambda: Tree((-1, 0), 0.5, 0.0), r"\(0, 1\]"),
    "leak": (lambda: Tree((-1, 0), 0.5, 0.5, 1.0), r"\[0, 1\)"),
    "stationary": (lambda: Tree.stationary((-1, 0), 0.9, 0.5), "raise the persistence"),
    "gamma": (lambda: SpikeSlabGamma(a=0.0), "a must be positive"),
    "gamma swapped": (lambda: SpikeSlabGamma(b=0.01, b_spike=1.0), "narrow"),
    "gaussian": (lambda: SpikeSlabGaussian(slab=0.1, spike=0.2), r"\[0, slab\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_parameters_are_refused_with_the_reason(case: str) -> None:
    build, message = BAD[case]
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize(
    ("prior", "shape", "message"),
    [
        (Independent(torch.full((3,), 0.1)), (4,), r"density of shape \(3,\).*support's shape"),
        (Chain(torch.full((3,), 0.1), 0.1), (2, 5), r"p01 of shape \(3,\).*batch's shape \(2,\)"),
        (Chain(torch.full((3,), 0.1), 0.1), (5,), "p01"),
        (GatedChain(0.1, Chain(0.1, torch.full((3,), 0.1))), (2, 5), "Chain: p10"),
        (Lattice(torch.zeros(3, 4), 1.0), (4, 3), "field"),
        (Lattice(0.0, torch.zeros(2)), (3, 4, 4), "coupling"),
        (Blocks((2, 2), Lattice(torch.zeros(4, 4), 1.0)), (4, 4), r"support's shape \(2, 2\)"),
        (Tree((-1, 0), 0.5, torch.full((3,), 0.5)), (2,), "persistence"),
    ],
)
def test_tensors_that_do_not_fit_the_support_are_refused(
    prior: SupportPrior, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        prior.log_prob(torch.zeros(shape))
    with pytest.raises(InputError, match=message):
        prior.sample(shape)
    with pytest.raises(InputError, match=message):
        marginals(prior, torch.zeros(shape))


def test_equality_compares_tensors_by_content() -> None:
    one = Independent(torch.tensor([0.1, 0.2]))
    assert one == Independent(torch.tensor([0.1, 0.2]))
    assert one != Independent(torch.tensor([0.1, 0.3]))
    assert hash(one) == hash(Independent(torch.tensor([0.1, 0.2])))
    assert Lattice(0.0, 1.0) != Chain(0.1, 0.1)
    assert Blocks((2, 2), Lattice(0.0, 1.0)) == Blocks((2, 2), Lattice(0.0, 1.0))


def test_supports_of_any_dtype_have_the_same_probability() -> None:
    support = torch.tensor([1, 0, 1])
    prior = Chain(0.1, 0.3)
    double = prior.log_prob(support.double())
    assert double.dtype == torch.float64
    for other in (support, support.bool(), support.float()):
        torch.testing.assert_close(prior.log_prob(other).double(), double)


def test_helpers_against_closed_forms() -> None:
    assert log_binomial(5, 2) == pytest.approx(torch.tensor(10.0).log().item())
    large = torch.tensor([-50.0, 0.0, 25.0], dtype=torch.float64)
    torch.testing.assert_close(softplus(large), large.exp().log1p(), rtol=1e-15, atol=0)
    tiny = torch.tensor(1e-30, dtype=torch.float64)
    assert logit(tiny).item() == pytest.approx(tiny.log().item())
