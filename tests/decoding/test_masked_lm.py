"""Adapters on random weights: a native encoder, and stand-ins with the conventions of others."""

from types import SimpleNamespace

import pytest
import torch

from probcomp.decoding import decode
from probcomp.decoding.adapters import MaskedLMAdapter
from probcomp.decoding.adapters.masked_lm import FAMILIES
from probcomp.decoding.small.network import SmallConfig, SmallDenoiser
from probcomp.errors import InputError

CLOSE = 1e-5  # float32, the same numbers in another order
SIZES = {"max_new_tokens": 12, "initial_length": 8}


class StandIn(torch.nn.Module):
    """The embedded architecture in the conventions of a remote-code class."""

    def __init__(self, model_type, *, form="key", **config):
        super().__init__()
        self.inner = SmallDenoiser(SmallConfig())
        self.form = form
        self.config = SimpleNamespace(model_type=model_type, vocab_size=51, **config)

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        if self.form == "ignores":
            attention_mask = torch.ones_like(input_ids)
        if self.form == "full":
            assert attention_mask.dtype == torch.bool
            assert attention_mask.shape[1:] == (1, input_ids.shape[1], input_ids.shape[1])
            assert position_ids is not None
            return SimpleNamespace(logits=self.inner(input_ids, attention_mask[:, 0], position_ids))
        return SimpleNamespace(logits=self.inner(input_ids, attention_mask))


def ragged():
    ids = torch.tensor([[0, 0, 5, 6, 2, 2], [9, 8, 7, 6, 2, 2]])
    keys = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]).bool()
    return ids, keys


def bert():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=48,
        pad_token_id=0,
    )
    return transformers.BertForMaskedLM(config)


def test_a_native_encoder_decodes():
    model = bert()
    adapter = MaskedLMAdapter(model, mask_id=3, eos_ids=1)
    ids = torch.tensor([[5, 6, 7]])
    output = decode(adapter, input_ids=ids, **SIZES)
    assert output.sequences[0, :3].tolist() == [5, 6, 7]
    assert 3 not in output.answers[0].tolist()
    direct = model(input_ids=torch.tensor([[5, 6, 7, 3, 3]])).logits[:, 3:]
    seen = adapter.logits(torch.tensor([[5, 6, 7, 3, 3]]), torch.ones(1, 5), 3)
    torch.testing.assert_close(seen, direct)


@pytest.mark.parametrize("family", ["llada", "Dream"])
def test_shift_and_masks_follow_the_family(family):
    form = "full" if FAMILIES[family].full_mask else "key"
    model = StandIn(family, form=form, mask_token_id=2, eos_token_id=1)
    adapter = MaskedLMAdapter(model)
    ids, keys = ragged()
    found = adapter.logits(ids, keys, 4)
    raw = model.inner(ids, keys)
    want = raw[:, 3:-1] if FAMILIES[family].shift else raw[:, 4:]
    torch.testing.assert_close(found, want, atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("family", ["llada", "Dream"])
def test_left_padding_is_invisible_and_never_nan(family):
    form = "full" if FAMILIES[family].full_mask else "key"
    adapter = MaskedLMAdapter(StandIn(family, form=form, mask_token_id=2, eos_token_id=1))
    ids, keys = ragged()
    both = adapter.logits(ids, keys, 0)
    assert torch.isfinite(both).all()
    alone = adapter.logits(ids[:1, 2:], keys[:1, 2:], 2)
    torch.testing.assert_close(both[0, 4:], alone[0], atol=CLOSE, rtol=CLOSE)


def test_a_model_that_ignores_its_mask_is_found_out_where_it_matters():
    adapter = MaskedLMAdapter(StandIn("llada", form="ignores", mask_token_id=2, eos_token_id=1))
    ids, keys = ragged()
    assert torch.isfinite(adapter.logits(ids, torch.ones_like(keys), 4)).all()
    with pytest.raises(InputError, match="ignores its attention mask"):
        adapter.logits(ids, keys, 4)


def test_mask_ids_are_resolved_in_order():
    model = StandIn("llada", mask_token_id=4, eos_token_id=1)
    assert MaskedLMAdapter(model, mask_id=7).mask_id == 7
    assert MaskedLMAdapter(model).mask_id == 4
    model.config.mask_token_id = None

    class Tokenizer:
        mask_token_id = 5
        eos_token_id = 1

        def __len__(self):
            return 45

    adapter = MaskedLMAdapter(model, Tokenizer())
    assert adapter.mask_id == 5
    assert adapter.banned == (5, *range(45, 51))  # rows of the head without a token
    model.config.vocab_size = 126_464
    assert MaskedLMAdapter(model).mask_id == 126_336


def test_what_is_missing_is_named():
    with pytest.raises(InputError, match="no mask token"):
        MaskedLMAdapter(StandIn("other", eos_token_id=1))
    with pytest.raises(InputError, match="end-of-text"):
        MaskedLMAdapter(StandIn("other", mask_token_id=2))
    with pytest.raises(InputError, match="below 51"):
        MaskedLMAdapter(StandIn("other", eos_token_id=1), mask_id=99)
