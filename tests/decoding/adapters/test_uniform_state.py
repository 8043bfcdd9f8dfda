"""`DiffusionGemmaForBlockDiffusion` with random weights, from a configuration built here."""

import pytest
import torch

from probcomp.decoding import decode
from probcomp.decoding.adapters import UniformStateAdapter
from probcomp.errors import InputError

transformers = pytest.importorskip("transformers")
if not hasattr(transformers, "DiffusionGemmaForBlockDiffusion"):
    pytest.skip("this Transformers has no DiffusionGemma", allow_module_level=True)

CLOSE = 1e-4  # float32 through tanh soft-capping, another order of sums
VOCAB, CANVAS = 64, 12


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    text = transformers.DiffusionGemmaTextConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        global_head_dim=16,
        max_position_embeddings=64,
        sliding_window=32,
        num_experts=2,
        top_k_experts=1,
        moe_intermediate_size=16,
        layer_types=["sliding_attention", "full_attention"],
    )
    vision = transformers.Gemma4VisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=16,
    )
    config = transformers.DiffusionGemmaConfig(
        text_config=text, vision_config=vision, canvas_length=CANVAS
    )
    return transformers.DiffusionGemmaForBlockDiffusion(config).eval()


def test_it_decodes_within_one_canvas(model):
    output = decode(model, input_ids=torch.tensor([[5, 6, 7]]), max_new_tokens=99, seed=1)
    assert output.canvas[0] <= CANVAS
    assert all(0 <= token < VOCAB for token in output.answers[0].tolist())


def test_logits_are_the_model_s_own(model):
    adapter = UniformStateAdapter(model)
    ids = torch.tensor([[5, 6, 7, 9, 10, 11, 12]])
    found = adapter.logits(ids, torch.ones_like(ids), 3)
    want = model(input_ids=ids[:, :3], decoder_input_ids=ids[:, 3:]).logits
    torch.testing.assert_close(found, want, atol=CLOSE, rtol=CLOSE)
    masked = ids.clone()
    masked[0, 4] = adapter.mask_id
    assert torch.isfinite(adapter.logits(masked, torch.ones_like(ids), 3)).all()


def test_left_padding_is_invisible_and_never_nan(model):
    adapter = UniformStateAdapter(model)
    mask = adapter.mask_id
    ids = torch.tensor([[0, 0, 5, mask, 9, mask], [4, 6, 7, mask, mask, mask]])
    keys = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]).bool()
    both = adapter.logits(ids, keys, 3)
    assert torch.isfinite(both).all()
    alone = adapter.logits(ids[:1, 2:], keys[:1, 2:], 1)
    torch.testing.assert_close(both[:1], alone, atol=CLOSE, rtol=CLOSE)


def test_what_it_cannot_do_is_refused(model):
    adapter = UniformStateAdapter(model)
    ids = torch.full((1, 4), adapter.mask_id)
    with pytest.raises(InputError, match="prompt"):
        adapter.logits(ids, torch.ones_like(ids), 0)
    with pytest.raises(InputError, match="inside its prompt"):
        adapter.logits(ids, torch.ones_like(ids), 2)
