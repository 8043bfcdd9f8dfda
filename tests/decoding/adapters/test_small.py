"""The embedded network as a denoiser: shadows in the same forward, padding, banned ids."""

import torch

from probcomp.decoding.adapters import Adapter, SmallAdapter
from probcomp.decoding.small.network import SmallConfig, SmallDenoiser

CLOSE = 1e-4  # float32, the same numbers in another order


def shadows_of(layers, adapter_type=SmallAdapter):
    """Shadow logits of positions 1 and 3 of a window before and after token 1 is changed."""
    adapter = adapter_type(SmallDenoiser(SmallConfig(layers=layers)))
    ids = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    keys = torch.ones(2, 9, dtype=torch.bool)
    keys[1, :2] = False
    shadow = torch.tensor([[1, 3], [0, -1]])
    before = adapter.forward(ids, keys, 3, shadow)
    plain = adapter.forward(ids, keys, 3)
    torch.testing.assert_close(before.logits, plain.logits, atol=CLOSE, rtol=CLOSE)
    ids[0, 3 + 1] = 7
    after = adapter.forward(ids, keys, 3, shadow)
    change = (before.shadow[0, :, 3:] - after.shadow[0, :, 3:]).abs().amax(1)
    return change.tolist(), before.cost.tolist()


def test_shadows_of_one_layer_are_blind_to_their_own_token_alone():
    (own, other), cost = shadows_of(1)
    assert own < CLOSE < other
    assert cost == [1, 1]


def test_deeper_shadows_hear_of_their_token_from_the_others():
    (own, other), _ = shadows_of(4)
    assert CLOSE < own < other


def test_masking_again_is_blind_at_any_depth():
    class Masking(SmallAdapter):
        subset = 1
        forward = Adapter.forward

    (own, other), cost = shadows_of(4, Masking)
    assert own < CLOSE < other
    assert cost == [3, 2]


def test_left_padding_is_invisible_and_mask_and_padding_are_never_predicted():
    adapter = SmallAdapter(SmallDenoiser())
    ids = torch.tensor([[0, 0, 5, 6, 2, 2], [9, 8, 7, 6, 2, 2]])
    keys = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    both = adapter.forward(ids, keys, 4).logits
    alone = adapter.forward(ids[:1, 2:], keys[:1, 2:], 2).logits
    assert torch.isfinite(both[..., 3:]).all()
    torch.testing.assert_close(both[0, :, 3:], alone[0, :, 3:], atol=CLOSE, rtol=CLOSE)
    assert (both[..., [adapter.mask_id, adapter.pad_id]] == -torch.inf).all()
    assert adapter.context == 160
