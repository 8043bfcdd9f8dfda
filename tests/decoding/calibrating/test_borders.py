"""Border weights and the duration law from texts whose blocks are known."""

import pytest
import torch

from probcomp.decoding.boundary import BoundaryWeights, boundary_evidence
from probcomp.decoding.calibrating.borders import FEWEST, fit_borders
from probcomp.decoding.calibrating.states import States
from probcomp.decoding.end_model import EndModel
from probcomp.decoding.features import Features
from probcomp.decoding.length import LengthPrior

WEIGHTS = (-1.0, 1.0, 0.5, 0.5, 2.0)
DELIMITER, OTHER, EOS, WIDTH = 5, 6, 1, 24


def world(count, block, sure, seed=0):
    """Texts of 20 tokens with a delimiter each ``block`` tokens, seen with mass ``sure``."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(WIDTH)
    truth = torch.where(place % block == block - 1, DELIMITER, OTHER).expand(count, WIDTH).clone()
    truth[:, 20:] = EOS
    noise = 0.1 * torch.rand(count, WIDTH, generator=generator)
    mass = torch.where(truth == DELIMITER, sure - noise, 1 - sure + noise)
    zero = torch.zeros(count, WIDTH)
    eos = (place >= 20).float().expand(count, WIDTH)
    features = Features(truth, zero, truth, zero, zero, eos, mass.clamp(0.01, 0.99))
    every = torch.ones(count, WIDTH, dtype=torch.bool)
    return States(torch.full((count,), 21), torch.full((count,), WIDTH), truth, every, features)


def fit(states):
    prior = LengthPrior.constant(20.0)
    return fit_borders(states, ((DELIMITER, 1.0),), WEIGHTS, EndModel("cdf", False), prior, WIDTH)


@pytest.mark.parametrize("block", [4, 8])
def test_the_mean_block_is_found_where_delimiters_show(block):
    found = fit(world(60, block, 0.95))
    assert found["block_mean"] == block
    assert found["boundary_weights"][1] > 0.3
    assert found["boundary_weights"][3:] == WEIGHTS[3:]


def test_the_evidence_favours_true_borders_after_the_fit():
    states = world(60, 5, 0.8)
    found = fit(states)
    r = boundary_evidence(
        states.features.delimiter,
        states.features.entropy,
        torch.zeros_like(states.masked),
        states.length,
        BoundaryWeights(*found["boundary_weights"]),
    )
    on = (states.truth == DELIMITER) & states.content
    off = (states.truth == OTHER) & states.content
    assert float(r[on].min()) > 0 > float(r[off].max())


def test_few_labels_or_none_leave_the_defaults():
    assert fit(world(FEWEST // 5 - 1, 4, 0.9)) == {}  # five delimiters a text
    states = world(40, 4, 0.9)
    nowhere = fit_borders(
        states, (), WEIGHTS, EndModel("cdf", False), LengthPrior.constant(20.0), WIDTH
    )
    assert nowhere == {}
