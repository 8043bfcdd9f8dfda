"""Priors as text."""

import pytest
import torch

from probcomp.errors import InputError
from probcomp.priors import (
    PRIORS,
    Blocks,
    Chain,
    ExactK,
    GatedChain,
    Independent,
    Lattice,
    NofM,
    SupportPrior,
    Tree,
    format_prior,
    parse_prior,
)
from probcomp.priors.registry import EXAMPLES

CASES: dict[str, SupportPrior] = {
    "independent:density=0.1": Independent(0.1),
    " Lattice: field = 0 , coupling=1.2": Lattice(0, 1.2),
    "chain:p01=.1,p10=3e-1": Chain(0.1, 0.3),
    "coupled-chain:field=-1,coupling=2": Chain.from_coupling(-1.0, 2.0),
    "gated-chain:gate=0.5,chain=(chain:p01=0.1,p10=0.3)": GatedChain(0.5, Chain(0.1, 0.3)),
    "blocks:tile=16x8,over=(lattice:field=-1,coupling=0.8)": Blocks((16, 8), Lattice(-1, 0.8)),
    "blocks:tile=[4,4],over=(blocks:tile=2x2,over=(independent:density=0.5))": Blocks(
        (4, 4), Blocks((2, 2), Independent(0.5))
    ),
    "n-of-m:n=2,m=4": NofM(2, 4),
    "exact-k:k=7": ExactK(7),
    "tree:parents=[-1,0,0],density=0.5,persistence=1,leak=0": Tree((-1, 0, 0), 0.5, 1, 0),
}


@pytest.mark.parametrize("text", CASES)
def test_parses_and_writes_back(text: str) -> None:
    prior = parse_prior(text)
    assert prior == CASES[text]
    assert parse_prior(format_prior(prior)) == prior


def test_every_registered_prior_has_an_example_that_parses() -> None:
    assert set(EXAMPLES) == set(PRIORS)
    for name, text in EXAMPLES.items():
        assert text.startswith(f"{name}:")
        assert isinstance(parse_prior(text), SupportPrior)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latice:field=0", "unknown prior 'latice'. Did you mean 'lattice'"),
        ("lattice:feild=0,coupling=1", "unknown key 'feild'. Did you mean 'field'"),
        ("lattice:field=0", "coupling missing; write for example lattice:field=0,coupling=1.2"),
        ("lattice", "field and coupling missing"),
        ("lattice:field=0,field=1,coupling=1", "field is given twice"),
        ("lattice:field=zero,coupling=1", "'zero' is no number"),
        ("lattice:0,1.2", "expected key=value, got '0'"),
        ("independent:density=10", r"density is a probability in \(0, 1\), got 10"),
        ("exact-k:k=2.5", "k must be an integer"),
        ("blocks:tile=4x4,over=(lattice:field=0,coupling=1", "brackets do not match"),
        ("blocks:tile=4x4,over=lattice", "prior in parentheses"),
        ("tree:parents=3,density=0.5,persistence=0.5", "list"),
        ("", "name:key=value"),
    ],
)
def test_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_prior(text)


def test_tensors_are_not_written() -> None:
    with pytest.raises(InputError, match="Tensor cannot be written"):
        format_prior(Independent(torch.tensor([0.1, 0.2])))
