"""Parts of the training script that decide what the model learns, and that a cut run goes on."""

import pytest
import torch

from probcomp.decoding.small import train as script
from probcomp.decoding.small.network import SmallConfig, SmallDenoiser
from probcomp.decoding.small.tasks import TASKS, make_examples
from probcomp.decoding.small.tokenizer import CharacterTokenizer
from probcomp.decoding.small.train import (
    CANVAS,
    KINDS,
    MIX,
    SHORTEST,
    collate,
    corrupt,
    draw_batch,
    masked_loss,
    one_by_one,
    train,
)
from probcomp.errors import InputError
from probcomp.storage import read_json, read_tensors

TOKENIZER = CharacterTokenizer()


def pools(count=200):
    return {task: make_examples(task, count, 0) for task in TASKS}


def test_a_row_is_prompt_answer_and_filler_or_the_answer_cut():
    examples = make_examples("json", 20, 0)
    sizes = [4 + i for i in range(20)]
    ids, keys, answer = collate(examples, TOKENIZER, sizes)
    for row, key, where, e, size in zip(ids, keys, answer, examples, sizes):
        text = TOKENIZER.decode(row[where], skip_special_tokens=False)
        assert text == (e.answer + "$" * size)[:size]
        assert TOKENIZER.decode(row[key & ~where]) == e.prompt


def test_rates_are_stratified_and_kinds_are_masked_as_they_say():
    answer = torch.ones(60, 40, dtype=torch.bool)
    ids = torch.zeros(60, 40, dtype=torch.long)
    ids[:, -1] = 1
    rng = torch.Generator().manual_seed(0)
    masked, t = corrupt(ids, answer, ["open"] * 60, 1, rng)
    # A row's own chance, five standard errors of 40 Bernoulli draws.
    assert float((masked.double().mean(1) - t).abs().max()) < 0.4
    assert t.min() >= 1 / 40
    rate = masked.double().mean(1).sort().values
    # 60 strata of width 1/60, and 40 Bernoulli draws each: 4 standard errors of 0.08.
    assert float((rate - (torch.arange(60) + 0.5) / 60).abs().max()) < 0.32
    whole, t = corrupt(ids, answer, ["whole"] * 60, 1, rng)
    assert whole.all()
    assert (t == 1).all()
    told, _ = corrupt(ids, answer, ["told"] * 60, 1, rng)
    assert not told[:, -1].any()
    assert told.any(1).all()


def test_hidden_ends_do_not_show_in_the_size_of_the_canvas(monkeypatch):
    """Where the end may be hidden, the canvas is drawn without looking at the answer."""
    met = []

    def note(examples, tokenizer, canvas):
        met.extend((len(e.answer), size) for e, size in zip(examples, canvas))
        return collate(examples, tokenizer, canvas)

    monkeypatch.setattr(script, "collate", note)
    some = pools()
    for step in range(8):
        draw_batch(some, TOKENIZER, 64, f"0-{step}")
    kinds = [KINDS[(i + i // len(MIX)) % len(KINDS)] for _ in range(8) for i in range(64)]
    hidden = torch.tensor([pair for pair, kind in zip(met, kinds) if kind != "told"])
    # 384 pairs: the correlation of independent ones is within 4 / sqrt(384).
    assert abs(float(torch.corrcoef(hidden.double().T)[0, 1])) < 0.2
    assert hidden[:, 1].min() >= SHORTEST
    assert (hidden[:, 0] > hidden[:, 1]).any()  # some answers are cut
    assert all(size == n + 1 for (n, size), kind in zip(met, kinds) if kind == "told")


def test_every_task_meets_every_kind():
    seen = {(MIX[i % len(MIX)], KINDS[(i + i // len(MIX)) % len(KINDS)]) for i in range(64)}
    assert seen == {(task, kind) for task in TASKS for kind in KINDS}


def test_a_batch_is_its_name():
    some = pools()
    for a, b in zip(*(draw_batch(some, TOKENIZER, 32, "3-7") for _ in range(2))):
        assert a.equal(b)
    chosen = draw_batch(some, TOKENIZER, 32, "3-7")[2]
    assert not draw_batch(some, TOKENIZER, 32, "3-8")[2].equal(chosen)
    ids, keys, chosen, answer, rate = draw_batch(some, TOKENIZER, 64, "1-1")
    assert (chosen <= answer).all()
    assert (answer <= keys).all()
    assert rate.shape == (64,)
    assert ids.shape[1] <= 15 + CANVAS


def test_a_cut_run_ends_at_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "POOL", 40)
    monkeypatch.setattr(script, "EVERY", 2)
    monkeypatch.setattr(script, "one_by_one", lambda *args, **options: 0.5)
    train(tmp_path / "whole", steps=4, batch=8)
    calls = []

    def stop(*args):
        calls.append(args)
        if len(calls) == 3:  # in the third step, after the checkpoint of the second
            raise KeyboardInterrupt
        return draw_batch(*args)

    monkeypatch.setattr(script, "draw_batch", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", steps=4, batch=8)
    monkeypatch.setattr(script, "draw_batch", draw_batch)
    train(tmp_path / "cut", steps=4, batch=8)
    whole, cut = (read_tensors(tmp_path / p / "small.safetensors") for p in ("whole", "cut"))
    assert all(whole[name].equal(cut[name]) for name in whole)
    log = read_json(tmp_path / "cut" / "training.json")
    assert [entry["step"] for entry in log["curve"]] == [2, 4]
    assert log["parameters"] <= 500_000


def test_the_state_of_another_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "POOL", 40)
    monkeypatch.setattr(script, "EVERY", 1)
    monkeypatch.setattr(script, "one_by_one", lambda *args, **options: 0.5)
    train(tmp_path, steps=1, batch=8)
    before = read_tensors(tmp_path / "small.safetensors")
    with pytest.raises(InputError, match="seed=0 there, 1 here; steps=1 there, 2 here"):
        train(tmp_path, steps=2, batch=8, seed=1)
    after = read_tensors(tmp_path / "small.safetensors")
    assert all(before[name].equal(after[name]) for name in before)


def test_weighted_losses_have_the_mean_of_the_whole_cross_entropy():
    """Over the masks that `corrupt` draws, of many short rows: the one that is forced where none
    falls below t is not counted too often. Uniform weights do not have that mean."""
    rows, n = 40000, 3
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, n, 7, generator=generator).expand(rows, n, 7)
    ids = torch.tensor([[3, 5, 2]]).expand(rows, n)
    answer = torch.ones(rows, n, dtype=torch.bool)
    whole = float(masked_loss(logits, ids, answer, answer))
    for kinds, eos in ((["open"] * rows, 0), (["whole"] * rows, 0)):
        chosen, inclusion = corrupt(ids, answer, kinds, eos, generator)
        found = float(masked_loss(logits, ids, chosen, answer, inclusion))
        # 40,000 rows, weights of up to n: a standard error below 0.006.
        assert found == pytest.approx(whole, abs=0.02)
    # "told" rows show their end: what may be masked is weighted by its own count.
    chosen, inclusion = corrupt(ids, answer, ["told"] * rows, 2, generator)
    free = torch.tensor([[True, True, False]]).expand(rows, n)
    want = float(masked_loss(logits, ids, free, free))
    assert float(masked_loss(logits, ids, chosen, free, inclusion)) == pytest.approx(want, abs=0.02)
    # By hand, two rows of other chances.
    logits, ids, answer = logits[:2], ids[:2], answer[:2]
    chosen = torch.tensor([[True, False, True], [False, True, False]])
    surprise = -logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    by_hand = (surprise[0, [0, 2]].sum() / 0.8 + surprise[1, 1] / 0.4) / 6
    found = masked_loss(logits, ids, chosen, answer, torch.tensor([0.8, 0.4]))
    assert float(found) == pytest.approx(float(by_hand), rel=1e-6)
    assert float(masked_loss(logits, ids, chosen, answer)) == pytest.approx(
        float(surprise[chosen].mean())
    )


def test_inverse_weights_train_another_model_and_other_names_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "POOL", 40)
    monkeypatch.setattr(script, "one_by_one", lambda *args, **options: 0.5)
    weights = {}
    for weighting in ("uniform", "inverse"):
        train(tmp_path / weighting, steps=2, batch=8, weighting=weighting)
        assert read_json(tmp_path / weighting / "training.json")["weighting"] == weighting
        weights[weighting] = read_tensors(tmp_path / weighting / "small.safetensors")
    assert not all(v.equal(weights["inverse"][k]) for k, v in weights["uniform"].items())
    with pytest.raises(InputError, match="uniform"):
        train(tmp_path / "other", steps=1, weighting="unifrom")


class Copier(torch.nn.Module):
    """Knows one answer by its length: sure of each token, and wrong about one if asked to be."""

    def __init__(self, answers, wrong=()):
        super().__init__()
        self.answers, self.wrong = answers, wrong

    def forward(self, ids, keys):
        logits = torch.zeros(*ids.shape, TOKENIZER.vocab_size)
        for row, (prompt, answer) in enumerate(self.answers):
            start = len(TOKENIZER.encode(prompt))
            first = int(keys[row].long().argmax()) + start
            for i, token in enumerate(TOKENIZER.encode(answer)):
                token = (token + 1) % 10 if row in self.wrong and i == 0 else token
                logits[row, first + i, token] = 50.0
        return logits


@pytest.mark.parametrize("drawn", [True, False])
def test_dev_answers_are_counted_right_or_wrong(drawn):
    some = [(e.prompt, e.answer) for e in make_examples("add", 8, 7, "dev")]
    good, bad = Copier(some), Copier(some, wrong=(1, 4, 6))
    options = {"drawn": drawn, "count": 8, "seed": 7}
    assert one_by_one(good, TOKENIZER, "add", **options) == 1.0
    assert one_by_one(bad, TOKENIZER, "add", **options) == 5 / 8


def test_an_untrained_model_draws_nothing_lawful():
    torch.manual_seed(0)
    model = SmallDenoiser(SmallConfig())
    assert one_by_one(model, TOKENIZER, "record", drawn=True, count=32) < 0.05
