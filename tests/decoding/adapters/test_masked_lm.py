"""Adapters on random weights: a native encoder, and stand-ins with the conventions of others."""

from types import SimpleNamespace

import pytest
import torch

from probcomp.decoding import decode
from probcomp.decoding.adapters import MaskedLMAdapter
from probcomp.decoding.adapters.families import FAMILIES
from probcomp.decoding.adapters.masked_lm import visible
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
        n = input_ids.shape[1]
        if self.form == "ignores":
            attention_mask = torch.ones_like(input_ids)
        if self.form in ("full", "block", "additive"):
            assert position_ids is not None
            shape = {"full": (1, n, n), "block": (n, n), "additive": (1, n, n)}[self.form]
            assert attention_mask.shape[1:] == shape
            if self.form == "additive":
                assert attention_mask.dtype == self.inner.embed.weight.dtype
                attention_mask = attention_mask == 0.0
            assert attention_mask.dtype == torch.bool
            attention_mask = attention_mask.reshape(-1, n, n)
            return SimpleNamespace(logits=self.inner(input_ids, attention_mask, position_ids))
        return SimpleNamespace(logits=self.inner(input_ids, attention_mask))


class Timed(StandIn):
    """MDLM and BD3-LM: ``timesteps`` and no mask; BD3-LM is block-causal inside."""

    def forward(self, input_ids, timesteps):
        assert timesteps.shape == (len(input_ids),)
        n, block = input_ids.shape[1], getattr(self.config, "block_size", None)
        at = torch.arange(n) // (block or n)
        mask = (at[None, :] <= at[:, None]).expand(len(input_ids), n, n)
        place = torch.arange(n).expand(len(input_ids), n)
        return SimpleNamespace(logits=self.inner(input_ids, mask, place))


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


READING = ["llada", "lladamoe", "Dream", "sdar", "llada2_moe"]


def of_family(name, **config):
    family = FAMILIES[name]
    return StandIn(name, form=family.mask, mask_token_id=2, eos_token_id=1, **config)


@pytest.mark.parametrize("name", READING)
def test_shift_and_masks_follow_the_family(name):
    model = of_family(name, block_size=2)
    adapter, (ids, keys) = MaskedLMAdapter(model), ragged()
    assert adapter.reads_mask
    found = adapter.logits(ids, keys, 4)
    position = (keys.long().cumsum(1) - 1).clamp(min=0)
    raw = model.inner(ids, seen_by_hand(keys, adapter.block_multiple), position)
    want = raw[:, 3:-1] if FAMILIES[name].shift else raw[:, 4:]
    torch.testing.assert_close(found, want, atol=CLOSE, rtol=CLOSE)


def seen_by_hand(keys, block):
    """Naive loops: query i sees key j if j is real and its block is not later, and itself."""
    batch, n = keys.shape
    seen = torch.zeros(batch, n, n, dtype=torch.bool)
    for b in range(batch):
        first = int(keys[b].long().argmax())
        for i in range(n):
            for j in range(n):
                late = block and max(j - first, 0) // block > max(i - first, 0) // block
                seen[b, i, j] = i == j or (bool(keys[b, j]) and not late)
    return seen


@pytest.mark.parametrize("block", [None, 1, 2, 3])
def test_visible_is_the_naive_mask(block):
    _, keys = ragged()
    assert visible(keys, block).equal(seen_by_hand(keys, block))


@pytest.mark.parametrize("name", READING)
def test_left_padding_is_invisible_and_never_nan(name):
    adapter = MaskedLMAdapter(of_family(name, block_size=2))
    ids, keys = ragged()
    both = adapter.logits(ids, keys, 0)
    assert torch.isfinite(both).all()
    alone = adapter.logits(ids[:1, 2:], keys[:1, 2:], 2)
    torch.testing.assert_close(both[0, 4:], alone[0], atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("name", ["sdar", "llada2_moe"])
def test_block_causal_models_write_one_trained_block_at_a_time(name):
    model = of_family(name, block_size=4)
    with torch.no_grad():  # no end token: the answer fills what it may
        model.inner.embed.weight[1] = -model.inner.embed.weight[5:].mean(0)
    prompts = torch.tensor([[0, 0, 5, 6, 7], [9, 8, 7, 6, 5]])
    keys = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    config = {"max_new_tokens": 11, "seed": 1, "history": True}
    together = decode(model, input_ids=prompts, attention_mask=keys, **config)
    for row, prompt in enumerate((prompts[0, 2:], prompts[1])):
        alone = decode(model, input_ids=prompt[None], **config)
        assert alone.answers[0].tolist() == together.answers[row].tolist()
        # Blocks are counted from the prompt's start: the first one fills up what it began.
        sizes = sorted({int(step.length[0]) for step in alone.history})
        begun = 4 - len(prompt) % 4
        assert sizes == [n for n in (begun, begun + 4, begun + 8, 11) if n <= 11][: len(sizes)]


def test_later_blocks_do_not_reach_earlier_ones():
    adapter = MaskedLMAdapter(of_family("sdar", block_size=3))
    ids = torch.randint(3, 50, (1, 9), generator=torch.Generator().manual_seed(0))
    keys = torch.ones_like(ids)
    before = adapter.logits(ids, keys, 0)
    ids[0, 6] = 7
    after = adapter.logits(ids, keys, 0)
    torch.testing.assert_close(before[:, :6], after[:, :6], atol=CLOSE, rtol=CLOSE)
    assert float((before[:, 6:] - after[:, 6:]).abs().max()) > CLOSE


@pytest.mark.parametrize("name", ["mdlm", "bd3lm"])
def test_models_with_timesteps_and_no_mask(name):
    model = Timed(name, eos_token_id=1, block_size=4 if name == "bd3lm" else None)
    adapter = MaskedLMAdapter(model)
    assert adapter.mask_id == 50  # the last index of the vocabulary
    assert adapter.block_multiple == (4 if name == "bd3lm" else None)
    output = decode(model, input_ids=torch.tensor([[5, 6, 7]]), max_new_tokens=9)
    assert 50 not in output.answers[0].tolist()
    ids, keys = ragged()
    with pytest.raises(InputError, match="ignores its attention mask"):
        adapter.logits(ids, keys, 4)


def test_a_model_that_ignores_its_mask_is_found_out_where_it_matters():
    adapter = MaskedLMAdapter(StandIn("llada", form="ignores", mask_token_id=2, eos_token_id=1))
    assert not adapter.reads_mask  # the probe ran at load
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
