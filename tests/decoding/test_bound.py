import pytest
import torch

from probcomp.decoding.adapters import CallableAdapter
from probcomp.decoding.bound import Bound
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.length import LengthPrior

ADAPTER = CallableAdapter(lambda ids, keys: ids, mask_id=3, eos_ids=(1, 2), vocab_size=4)


def test_a_fitted_hazard_is_over_the_mean():
    plain, fitted = (Bound(ADAPTER, DecodingConfig(hazard=h)) for h in (None, (0.1, 0.2)))
    assert fitted.log_survival[1].exp() == pytest.approx(0.9)
    want = LengthPrior.negative_binomial(200.0, 2.0).log_survival(1024)
    torch.testing.assert_close(plain.log_survival, want)


@pytest.mark.parametrize(
    ("options", "reads"),
    [
        ({}, True),
        ({"sizing": "none", "stop": "none", "blocks": "fixed"}, False),
        ({"sizing": "none", "stop": "posterior", "blocks": "fixed"}, True),
        ({"sizing": "daedal", "stop": "eos", "blocks": "posterior"}, True),
        ({"sizing": "none", "stop": "eos", "blocks": "none", "draw_end": True}, False),
        (
            {"sizing": "none", "stop": "eos", "blocks": "none", "draw_end": True}
            | {"temperature": 1.0},
            True,
        ),
    ],
)
def test_the_end_is_read_where_a_choice_needs_it(options, reads):
    bound = Bound(ADAPTER, DecodingConfig(**options))
    assert bound.models_end is reads
    assert bound.eos.tolist() == [1, 2]
