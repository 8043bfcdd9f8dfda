"""The exact law of records as a denoiser, and what our schedule does to it."""

import random

import pytest
import torch

from probcomp.decoding import decode
from probcomp.decoding.calibrating.coupling import fit_coupling
from probcomp.decoding.end import cdf_end
from probcomp.decoding.oracles.embedded import record_oracle
from probcomp.decoding.small.load import small_config
from probcomp.decoding.small.tasks import (
    is_valid,
    make_examples,
    record_length_law,
    record_log_prob,
)
from probcomp.decoding.small.tokenizer import CharacterTokenizer

TOKENIZER = CharacterTokenizer()
ORACLE = record_oracle()


def canvas(prompt, size):
    return torch.tensor([[*TOKENIZER.encode(prompt), *[TOKENIZER.mask_token_id] * size]])


@pytest.mark.parametrize("order", ["left to right", "shuffled"])
def test_the_chain_rule_gives_the_law_in_any_order(order):
    for example in make_examples("record", 8, 1, "dev"):
        answer = TOKENIZER.encode(example.answer)
        truth = [*answer, *[TOKENIZER.eos_token_id] * (26 - len(answer))]
        ids, total = canvas(example.prompt, 26), 0.0
        places = list(range(26))
        if order == "shuffled":
            random.Random(0).shuffle(places)
        for i in places:
            p = ORACLE.forward(ids, torch.ones_like(ids), 2).logits[0, i].softmax(-1)
            total += float(p[truth[i]].log())
            ids[0, 2 + i] = truth[i]
        assert total == pytest.approx(record_log_prob(example.prompt, example.answer), abs=1e-9)


def test_its_end_is_the_law_of_lengths():
    ids = canvas("?c", 24)
    p = ORACLE.forward(ids, torch.ones_like(ids), 2).logits.softmax(-1)
    end = cdf_end(p[..., 1], torch.ones(1, 25, dtype=torch.bool), torch.tensor([24]))[0]
    for length, chance in record_length_law().items():
        assert float(end[length]) == pytest.approx(chance, abs=1e-9)


def test_committing_by_coupling_keeps_records_lawful_in_a_quarter_of_the_forwards():
    """No model error: 200 draws, at least 96 % lawful, at 0.2 nats a forward."""
    pairs = [
        (TOKENIZER.encode(e.prompt), TOKENIZER.encode(e.answer))
        for e in make_examples("record", 60, 1, "dev")
    ]
    profile = fit_coupling(ORACLE, pairs, 32, 0)
    assert max(profile[:2]) < 1e-3 < 0.3 < profile[2]  # letters and digits do not see each other
    examples = make_examples("record", 200, 5, "dev")
    config = small_config().replace(
        initial_length=24, temperature=1.0, coupling_profile=profile, gamma=0.2,
        draw_end=True, draw_commits=True,
    )  # fmt: skip
    output = decode(
        ORACLE, TOKENIZER, prompt=[e.prompt for e in examples], generation_config=config
    )
    valid = sum(is_valid(e, t) for e, t in zip(examples, output.texts)) / 200
    assert valid >= 0.96
    assert sum(output.num_new_tokens) / sum(output.nfe) > 3.8
