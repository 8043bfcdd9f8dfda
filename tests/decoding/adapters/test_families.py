from types import SimpleNamespace

import pytest

from probcomp.decoding.adapters.families import FAMILIES, LAST_IS_MASK, Family, resolve_mask_id
from probcomp.errors import InputError


def test_the_mask_id_is_the_argument_then_the_config_then_the_tokenizer_then_the_family():
    config = SimpleNamespace(model_type="Dream", vocab_size=200_000, mask_token_id=3)
    tokenizer = SimpleNamespace(mask_token_id=4)
    family = FAMILIES["Dream"]
    assert resolve_mask_id(0, config, tokenizer, family) == 0  # an id of 0 is an id
    assert resolve_mask_id(None, config, tokenizer, family) == 3
    config.mask_token_id = None
    assert resolve_mask_id(None, config, tokenizer, family) == 4
    assert resolve_mask_id(None, config, None, family) == 151_666
    with pytest.raises(InputError, match=r"mask_id.*config.mask_token_id.*tokenizer.mask_token"):
        resolve_mask_id(None, config, None, Family())


@pytest.mark.parametrize("kind", LAST_IS_MASK)
def test_the_last_row_is_the_mask_of_models_that_say_nothing(kind):
    config = SimpleNamespace(model_type=kind, vocab_size=50_258)
    assert resolve_mask_id(None, config, None, FAMILIES[kind]) == 50_257


def test_the_trained_block_is_the_config_s_where_it_says_one():
    sdar = FAMILIES["sdar"]
    assert sdar.block_of(SimpleNamespace()) == 4
    assert sdar.block_of(SimpleNamespace(block_size=16)) == 16
    assert sdar.block_of(SimpleNamespace(block_length=8)) == 8
    assert FAMILIES["bd3lm"].block_of(SimpleNamespace()) is None
    assert FAMILIES["llada"].block_of(SimpleNamespace(block_size=16)) is None


def test_families_are_as_published():
    assert FAMILIES["Dream"].shift
    assert not any(f.shift for name, f in FAMILIES.items() if name != "Dream")
    assert FAMILIES["llada2_moe"].block == 32
    assert {name for name, f in FAMILIES.items() if f.timesteps} == set(LAST_IS_MASK)
