import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probcomp.decoding.small.tokenizer import CHARACTERS, CharacterTokenizer
from probcomp.errors import InputError

TOKENIZER = CharacterTokenizer()


@given(st.text(CHARACTERS + "_", max_size=30))
def test_what_is_encoded_is_decoded(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert TOKENIZER.decode(torch.tensor(ids, dtype=torch.long)) == text.replace("_", "")


def test_special_tokens_are_shown_or_left_out():
    assert TOKENIZER.decode([0, 3, 1, 2]) == "0"
    assert TOKENIZER.decode([0, 3, 1, 2], skip_special_tokens=False) == "~0$_"
    assert TOKENIZER.vocab_size == 3 + len(CHARACTERS) == 51


def test_a_batch_is_padded_on_the_left():
    found = TOKENIZER(["+1", "+12"])
    assert found["input_ids"][0, 0] == TOKENIZER.pad_token_id
    assert found["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert TOKENIZER.batch_decode(found["input_ids"]) == ["+1", "+12"]
    assert TOKENIZER("")["input_ids"].shape == (1, 0)


def test_a_character_without_an_id_is_named():
    with pytest.raises(InputError, match=r"'@A'"):
        TOKENIZER.encode("A1@")
