import dataclasses

import pytest
import torch

from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.end import allowed_ends, cdf_end, shrunk
from probcomp.decoding.end_model import EndModel
from probcomp.decoding.length import LengthPrior

LENGTH = torch.tensor([6, 4])
VALID = torch.arange(6) < LENGTH[:, None]
MASS = torch.tensor([[0.1, 0.3, 0.4, 0.7, 0.8, 0.9], [0.0, 0.2, 0.5, 0.9, 0.0, 0.0]])
NONE = torch.zeros(2, 6, dtype=torch.bool)
ALLOWED = allowed_ends(NONE, NONE, LENGTH)
PRIOR = LengthPrior.constant(4.0).log_end(LENGTH, 6)


def read(**options):
    return EndModel(**({"end_model": "cdf", "beyond": False} | options)).read(
        MASS, VALID, ALLOWED, PRIOR, LENGTH
    )


def test_every_field_is_an_option_of_the_same_name():
    config = DecodingConfig(end_model="cdf", end_noise=0.02, end_tilt=0.1, end_share=((0.0, 0.5),))
    model = EndModel.of(config)
    for field in dataclasses.fields(EndModel):
        assert getattr(model, field.name) == getattr(config, field.name)


def test_plain_marginals_are_read_as_a_cdf():
    said, mixed = read()
    torch.testing.assert_close(said, cdf_end(MASS.double(), ALLOWED, LENGTH))
    assert mixed is said


@pytest.mark.parametrize("end_model", ["cdf", "hmm"])
@pytest.mark.parametrize("beyond", [True, False])
def test_it_is_a_law_over_the_window_and_beyond(end_model, beyond):
    options = {"end_noise": 0.05, "end_tilt": -0.1, "end_share": ((0.1, 0.2), (1.0, 0.4))}
    for p in read(end_model=end_model, beyond=beyond, **options):
        torch.testing.assert_close(p.sum(1), torch.ones(2, dtype=p.dtype))
        assert (p >= 0).all()
        assert float(p[1, 5:].abs().max()) == 0.0  # past "beyond" of the shorter window


def test_the_prior_is_mixed_in_by_its_share():
    said, mixed = read(end_share=((0.0, 0.3),))
    prior = PRIOR.masked_fill(~ALLOWED, -1e30).softmax(1)
    torch.testing.assert_close(mixed, 0.7 * said + 0.3 * prior.to(said.dtype))


def test_noise_is_taken_from_small_differences_only():
    p = torch.tensor([[0.005, 0.3, 0.005, 0.39, 0.3]], dtype=torch.float64)
    found = shrunk(p, 0.01, torch.tensor([4]))
    assert float(found[0, 4]) == 0.3  # what lies beyond stays
    assert float(found.sum()) == pytest.approx(1.0)
    assert float(found[0, 0]) < 0.0005
    assert float(found[0, 1] / found[0, 3]) == pytest.approx(0.3 / 0.39)
    assert shrunk(p, 0.0, torch.tensor([4])) is p
    # An end that is seen to be possible is not made impossible by much larger noise.
    assert float(shrunk(p, 1.0, torch.tensor([4]))[0, 3]) > 0.3
