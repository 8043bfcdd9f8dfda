from types import SimpleNamespace

import pytest
import torch

from probcomp.decoding import presets
from probcomp.decoding.adapters import CallableAdapter, MaskedLMAdapter, SmallAdapter
from probcomp.decoding.adapters.resolve import as_adapter, block_by_block
from probcomp.decoding.small.load import small_config
from probcomp.decoding.small.network import SmallDenoiser
from probcomp.decoding.small.tokenizer import CharacterTokenizer
from probcomp.errors import InputError


def test_nothing_is_the_embedded_model_with_its_tokenizer_and_defaults():
    adapter, tokenizer, config = as_adapter(None, None)
    assert isinstance(adapter, SmallAdapter)
    assert isinstance(tokenizer, CharacterTokenizer)
    assert config == small_config()
    mine = CharacterTokenizer()
    assert as_adapter(None, mine)[1] is mine


def test_an_adapter_and_a_small_network_are_taken_as_they_are():
    adapter = CallableAdapter(lambda i, k: i, mask_id=2, eos_ids=1, vocab_size=4)
    assert as_adapter(adapter, None) == (adapter, None, presets["bayes"])
    network = SmallDenoiser()
    found, _, config = as_adapter(network, None)
    assert found.model is network
    assert config == small_config()


def test_block_causal_models_get_a_window_of_one_block():
    adapter = CallableAdapter(lambda i, k: i, mask_id=2, eos_ids=1, vocab_size=4)
    adapter.block_multiple = 16
    config = as_adapter(adapter, None)[2]
    assert config == block_by_block(16)
    assert (config.sizing, config.initial_length, config.stop) == ("append", 16, "eos")


def test_a_model_with_a_vocabulary_is_a_masked_language_model():
    class Model(torch.nn.Module):
        config = SimpleNamespace(model_type="x", vocab_size=6, mask_token_id=2, eos_token_id=1)

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, input_ids, attention_mask):
            same = (input_ids * attention_mask).sum(1, keepdim=True)
            return SimpleNamespace(logits=same[..., None].expand(-1, input_ids.shape[1], 6).float())

    found, _, config = as_adapter(Model(), None)
    assert isinstance(found, MaskedLMAdapter)
    assert config == presets["bayes"]


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 2), object(), 3])
def test_the_rest_is_refused_with_a_way_out(model):
    with pytest.raises(InputError, match="CallableAdapter"):
        as_adapter(model, None)
