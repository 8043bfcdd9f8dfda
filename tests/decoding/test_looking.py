"""The end that decoding reads from a forward is the one that the calibration fitted."""

import pytest
import torch

from probcomp.decoding.adapters import CallableAdapter
from probcomp.decoding.bound import Bound
from probcomp.decoding.calibrating.ends import posterior
from probcomp.decoding.calibrating.states import States
from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.end_model import EndModel
from probcomp.decoding.features import read_features
from probcomp.decoding.ledger import Ledger
from probcomp.decoding.looking import look
from probcomp.decoding.rows import Rows

EOS, MASK, VOCABULARY, WIDTH = 1, 2, 6, 12

FITTED = {
    "end_temper": 0.3,
    "end_platt": (-0.4, 1.3),
    "tail_truncated": (1.5, 4.0),
    "tail_fits": (5.0, 2.0),
    "tail_window": 5,
    "end_tilt": 0.07,
    "end_share": ((0.2, 0.05), (1.0, 0.4)),
}


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("beyond", [True, False])
@pytest.mark.parametrize("end_model", ["cdf", "hmm"])
def test_fitting_and_decoding_read_the_same_end(end_model, beyond, share):
    """Random logits on canvases of 3 to 12 positions, a third of them visible."""
    generator = torch.Generator().manual_seed(0)
    n = 60
    length = torch.randint(3, WIDTH + 1, (n,), generator=generator)
    length[0] = WIDTH
    end = 1 + (torch.rand(n, generator=generator) * (length + 3)).long()
    place = torch.arange(WIDTH)
    valid = place < length[:, None]
    truth = torch.where(place < end[:, None] - 1, 4, EOS)
    masked = valid & (torch.rand(n, WIDTH, generator=generator) < 0.67)
    masked[:, 0] = True
    logits = 2 * torch.randn(n, WIDTH, VOCABULARY, generator=generator)

    fitted = FITTED | ({} if share else {"end_share": ()})
    config = DecodingConfig(
        end_model=end_model, beyond=beyond, hazard=(0.02, 0.1, 0.3, 0.15), **fitted
    )
    adapter = CallableAdapter(
        lambda ids, keys: ids, mask_id=MASK, eos_ids=EOS, vocab_size=VOCABULARY
    )
    bound = Bound(adapter, config)
    assert bound.models_end
    ids = torch.where(masked, MASK, truth)
    rows = Rows(
        ids,
        length,
        torch.ones(n, dtype=torch.bool),
        MASK,
        ledger=Ledger.open(n, config.error_total, config.error_step),
        sizing=config.sizes_first,
    )
    view = look(bound, rows, torch.arange(n), ids, valid, logits, torch.zeros(n))

    features = read_features(logits, (EOS,), config.delimiters)
    states = States(end, length, truth, masked, features)
    model = EndModel(end_model, beyond, **fitted)
    want = posterior(model, states, bound.prior)
    # Evidence put together in two places, on the same float32 marginals: rounding alone.
    torch.testing.assert_close(view.p_end, want, atol=1e-12, rtol=1e-9, check_dtype=False)
    assert float(want.sum(1).sub(1).abs().max()) < 1e-9
