import torch

from probcomp.decoding import decode
from probcomp.decoding.adapters import CallableAdapter


def fixed(ids, keys):
    """Position 3 of the sequence is 2, everything after it ends."""
    logits = torch.full((*ids.shape, 5), -9.0)
    logits[:, :4, 2] = 9.0
    logits[:, 4:, 1] = 9.0
    return logits


def test_any_function_decodes():
    adapter = CallableAdapter(fixed, mask_id=4, eos_ids=1, vocab_size=5)
    output = decode(
        adapter, input_ids=torch.tensor([[3, 3]]), max_new_tokens=12, initial_length=8,
        end_model="cdf", beyond=False,
    )  # fmt: skip
    assert output.answers[0].tolist() == [2, 2]
    assert output.sequences.tolist() == [[3, 3, 2, 2]]
    assert output.texts is None


def test_the_window_is_cut_from_the_whole():
    adapter = CallableAdapter(fixed, mask_id=4, eos_ids=(1, 0), vocab_size=5, context=7)
    ids = torch.zeros(2, 6, dtype=torch.long)
    assert adapter.logits(ids, torch.ones_like(ids), 2).shape == (2, 4, 5)
    assert adapter.pad_id == adapter.eos_ids[0] == 1
    assert adapter.context == 7
    assert adapter.subset == 1
    padded = CallableAdapter(fixed, mask_id=4, eos_ids=1, vocab_size=5, pad_id=0)
    assert padded.pad_id == 0
