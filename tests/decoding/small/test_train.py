"""Parts of the training script that decide what the model learns."""

import random

import torch

from probcomp.decoding.small.network import SmallConfig, SmallDenoiser
from probcomp.decoding.small.tasks import make_examples
from probcomp.decoding.small.tokenizer import CharacterTokenizer
from probcomp.decoding.small.train import CANVAS, average, collate, corrupt, draw_validity
from probcomp.storage import read_json, read_tensors, write_json, write_tensors

TOKENIZER = CharacterTokenizer()


def test_a_row_is_prompt_answer_and_filler():
    examples = make_examples("json", 20, 0)
    ids, keys, answer = collate(examples, TOKENIZER, random.Random(0))
    for row, key, where, e in zip(ids, keys, answer, examples):
        text = TOKENIZER.decode(row[where], skip_special_tokens=False)
        assert text.rstrip("$") == e.answer
        assert len(e.answer) < len(text) <= CANVAS
        assert TOKENIZER.decode(row[key & ~where]) == e.prompt
    ids, _, answer = collate(examples, TOKENIZER, random.Random(0), spare=0)
    assert answer.sum(1).tolist() == [len(e.answer) + 1 for e in examples]


def test_open_canvases_do_not_know_the_answer_and_cut_it():
    examples = make_examples("json", 300, 0)
    ids, _, answer = collate(examples, TOKENIZER, random.Random(0), open_=True)
    size = answer.sum(1).double()
    length = torch.tensor([float(len(e.answer)) for e in examples], dtype=torch.float64)
    assert abs(float(torch.corrcoef(torch.stack((size, length)))[0, 1])) < 0.18  # 3 / sqrt(300)
    cut = [i for i in range(300) if size[i] < length[i]]
    assert cut
    for i in cut:
        assert TOKENIZER.decode(ids[i][answer[i]]) == examples[i].answer[: int(size[i])]


def test_rates_are_stratified_and_a_share_is_whole():
    answer = torch.ones(60, 40, dtype=torch.bool)
    ids = torch.zeros(60, 40, dtype=torch.long)
    chosen = corrupt(ids, answer, torch.Generator().manual_seed(0))
    rate = chosen.double().mean(1).sort().values
    # 60 strata of width 1/60, and 40 Bernoulli draws each: 4 standard errors of 0.08.
    assert float((rate - (torch.arange(60) + 0.5) / 60).abs().max()) < 0.32
    whole = corrupt(ids, answer, torch.Generator().manual_seed(0), 1 / 3)
    assert 18 <= int(whole.all(1).sum()) <= 24


def test_averaging_mixes_weights_and_says_so(tmp_path):
    for name, value in (("new", 1.0), ("old", 0.0)):
        write_tensors(tmp_path / name / "small.safetensors", {"w": torch.full((2,), value)})
        write_json(tmp_path / name / "training.json", {"seed": 1})
    average(tmp_path / "new", tmp_path / "old", 0.75, tmp_path / "out")
    assert read_tensors(tmp_path / "out" / "small.safetensors")["w"].tolist() == [0.75, 0.75]
    assert read_json(tmp_path / "out" / "training.json")["averaged_with_the_part_before"] == 0.75


def test_an_untrained_model_draws_nothing_lawful():
    torch.manual_seed(0)
    assert draw_validity(SmallDenoiser(SmallConfig()), TOKENIZER, count=32) < 0.05
