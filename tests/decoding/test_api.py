"""`decode` on the embedded model, as its user meets it."""

import pytest
import torch

from probcomp.decoding import DecodingConfig, decode
from probcomp.decoding.adapters import CallableAdapter, SmallAdapter
from probcomp.decoding.small.load import FOLDER, embedded_model, small_config, training_log
from probcomp.decoding.small.tasks import is_valid, make_examples
from probcomp.decoding.small.tokenizer import CharacterTokenizer
from probcomp.errors import InputError

CLOSE = 1e-5  # float32 logits of the same numbers in another order


def test_the_embedded_model_is_small_and_says_how_it_was_trained():
    assert sum(p.numel() for p in embedded_model().parameters()) <= 500_000
    assert (FOLDER / "small.safetensors").stat().st_size < 2_000_000
    log = training_log()
    assert log["parameters"] == sum(p.numel() for p in embedded_model().parameters())
    assert log["curve"][-1]["step"] == log["steps"]


@pytest.mark.parametrize("task", ["add", "json"])
def test_answers_are_right_without_being_told_the_length(task):
    examples = make_examples(task, 60, 21, "test")
    output = decode(prompt=[example.prompt for example in examples])
    right = [is_valid(e, text) for e, text in zip(examples, output.texts)]
    assert sum(right) >= 54  # 60 drawn from a model that is right on at least 95 %
    content, forwards = sum(output.num_new_tokens), sum(output.nfe)
    assert content / forwards >= 4
    assert content / sum(output.canvas) >= 0.8


def test_statistics_fit_together():
    output = decode(prompt="{k=12;b=x", history=True)
    assert output.texts == ['{"k":12,"b":"x"}']
    assert output.num_new_tokens == [len(output.texts[0])] == [len(output.answers[0])]
    assert output.nfe == [len(output.history)]
    assert output.tokens_per_forward[0] == pytest.approx(output.num_new_tokens[0] / output.nfe[0])
    assert float(output.end_posterior[0].sum()) == pytest.approx(1.0, abs=1e-5)
    assert set(output.to_dict()) >= {"texts", "nfe", "boundaries", "config"}
    assert output.sequences.shape[1] == len("{k=12;b=x") + output.num_new_tokens[0]


def test_left_padding_changes_nothing():
    prompts = ["+1+2", "{k=12;b=x;c=7", "?c"]
    together = decode(prompt=prompts)
    for prompt, text in zip(prompts, together.texts):
        assert decode(prompt=prompt).texts == [text]
    tokenizer, model = CharacterTokenizer(), SmallAdapter(embedded_model())
    found = tokenizer(prompts)
    logits = model.logits(found["input_ids"], found["attention_mask"].bool(), 0)
    assert torch.isfinite(logits).all()
    alone = tokenizer(prompts[:1])
    one = model.logits(alone["input_ids"], alone["attention_mask"].bool(), 0)
    n = one.shape[1]
    assert float((logits[0, -n:] - one[0]).abs().max()) < CLOSE


def test_the_tokenizer_s_padding_side_is_given_back():
    class Padding(CharacterTokenizer):
        def __call__(self, texts, **options):
            self.seen = self.padding_side
            return super().__call__(texts, **options)

    tokenizer = Padding()
    tokenizer.padding_side = "right"
    decode(SmallAdapter(embedded_model()), tokenizer, prompt=["+1+2", "+12+34"])
    assert (tokenizer.seen, tokenizer.padding_side) == ("left", "right")
    with pytest.raises(InputError, match="no token"):
        decode(SmallAdapter(embedded_model()), tokenizer, prompt="@")
    assert tokenizer.padding_side == "right"


def test_gaps_are_filled_in_place():
    output = decode(prompt="{k=12;b=x" + '{"k":__,"b":"_"}')
    assert output.texts == ["{k=12;b=x" + '{"k":12,"b":"x"}']
    assert output.num_new_tokens == [len('__,"b":"_"}')]


def test_seeds_decide_draws():
    prompts = ["?c"] * 6
    one = decode(prompt=prompts, temperature=1.0, seed=3).texts
    assert decode(prompt=prompts, temperature=1.0, seed=3).texts == one
    assert decode(prompt=prompts, temperature=1.0, seed=4).texts != one
    assert len(set(one)) > 1
    many = decode(prompt="?c", temperature=1.0, seed=3, num_return_sequences=6)
    assert many.texts == one


def test_transformers_processors_and_criteria_work():
    transformers = pytest.importorskip("transformers")
    five = CharacterTokenizer().encode("5")
    suppress = transformers.SuppressTokensLogitsProcessor(five)
    processors = transformers.LogitsProcessorList([suppress])
    free = decode(prompt="+385+267").texts[0]
    assert "5" in free
    assert "5" not in decode(prompt="+385+267", logits_processor=processors).texts[0]
    stop = transformers.StoppingCriteriaList([transformers.MaxLengthCriteria(12)])
    output = decode(
        prompt="+385+267",
        stopping_criteria=stop,
        rule="quota",
        steps=99,
        blocks="fixed",
        block_length=2,
    )
    assert len("+385+267") + output.num_new_tokens[0] < len("+385+267") + len(free)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": []}, "empty"),
        ({}, "input_ids or a prompt"),
        ({"prompt": "+1+2", "input_ids": torch.ones(1, 3, dtype=torch.long)}, "not both"),
        ({"prompt": "+1+2", "tresholds": 1}, "threshold"),
        ({"prompt": "+1+2", "preset": "daedall"}, "daedal"),
        ({"prompt": "+1+2", "preset": "eb", "generation_config": DecodingConfig()}, "not both"),
        ({"prompt": "+" + "1" * 400}, "context"),
        ({"prompt": "ABC"}, "no token"),
        ({"prompt": "+1+2", "num_return_sequences": 0}, "num_return_sequences"),
        ({"input_ids": torch.ones(1, 3)}, "integers"),
        ({"input_ids": torch.ones(1, 0, dtype=torch.long)}, "empty"),
        (
            {
                "input_ids": torch.ones(1, 3, dtype=torch.long),
                "attention_mask": torch.ones(1, 2, dtype=torch.long),
            },
            "shape",
        ),
        (
            {
                "input_ids": torch.ones(1, 3, dtype=torch.long),
                "attention_mask": torch.tensor([[1, 1, 0]]),
            },
            "left",
        ),
    ],
)
def test_bad_input_gets_one_clear_error(options, says):
    with pytest.raises(InputError, match=says):
        decode(**options)


def test_models_without_an_adapter_or_an_end_are_refused():
    with pytest.raises(InputError, match="no adapter"):
        decode(torch.nn.Linear(2, 2), prompt="+1+2")
    with pytest.raises(InputError, match="end-of-text"):
        CallableAdapter(lambda ids, keys: ids, mask_id=2, eos_ids=(), vocab_size=4)


def test_defaults_fit_the_embedded_model():
    assert small_config().end_model == "cdf"
    assert small_config().max_new_tokens <= embedded_model().config.context
