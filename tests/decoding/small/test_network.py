import pytest
import torch

from probcomp.decoding.small.network import SmallConfig, SmallDenoiser

CLOSE = 1e-5


def model():
    torch.manual_seed(0)
    return SmallDenoiser(SmallConfig(layers=2))


def test_it_is_small():
    assert sum(p.numel() for p in SmallDenoiser().parameters()) == 448_992


def test_a_row_of_padding_yields_no_nan():
    keys = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1]])
    assert torch.isfinite(model()(torch.ones(2, 4, dtype=torch.long), keys)).all()


def test_positions_count_visible_keys():
    ids = torch.tensor([[7, 8, 9]])
    padded = torch.tensor([[0, 0, 7, 8, 9]])
    net = model()
    one = net(ids, torch.ones_like(ids))
    two = net(padded, torch.tensor([[0, 0, 1, 1, 1]]))
    torch.testing.assert_close(two[:, 2:], one, atol=CLOSE, rtol=CLOSE)
    # And only differences of positions matter (rotary).
    place = torch.arange(3)[None]
    full = torch.ones(1, 3, 3, dtype=torch.bool)
    torch.testing.assert_close(net(ids, full, place + 40), one, atol=1e-4, rtol=1e-4)


def test_a_full_mask_hides_keys_query_by_query():
    ids = torch.tensor([[7, 8, 9, 10]])
    place, causal = torch.arange(4)[None], torch.ones(4, 4, dtype=torch.bool).tril()[None]
    net = model()
    before = net(ids, causal, place)
    ids[0, 3] = 11
    torch.testing.assert_close(net(ids, causal, place)[0, :3], before[0, :3])
    with pytest.raises(ValueError, match="position_ids"):
        net(ids, causal)
