import json

import torch

from probcomp.decoding import DecodingConfig, decode
from probcomp.decoding.output import DecodeOutput


def output(**changes):
    values = {
        "sequences": torch.tensor([[5, 6, 7], [5, 8, 0]]),
        "nfe": [2, 0],
        "num_new_tokens": [3, 0],
        "canvas": [4, 4],
        "expected_errors": [0.1234567, 0.0],
        "extensions": [1, 0],
        "contractions": [0, 0],
        "revocations": [0, 0],
        "insertions": [0, 0],
        "boundaries": [[2], []],
        "end_posterior": [torch.tensor([0.25, 0.75]), None],
        "answers": [torch.tensor([6, 7]), torch.tensor([], dtype=torch.long)],
        "config": DecodingConfig(),
    }
    return DecodeOutput(**(values | changes))


def test_tokens_per_forward_is_content_over_forwards():
    assert output().tokens_per_forward == [1.5, 0.0]


def test_it_becomes_json_and_its_configuration_comes_back():
    found = json.loads(json.dumps(output().to_dict()))
    assert found["end_posterior"] == [[0.25, 0.75], None]
    assert found["answers"] == [[6, 7], []]
    assert found["expected_errors"] == [0.123457, 0.0]
    assert DecodingConfig.from_dict(found["config"]) == DecodingConfig()
    assert set(found) >= {"nfe", "tokens_per_forward", "boundaries", "extensions", "revocations"}


def test_numbers_of_a_real_run_fit_together():
    found = decode(prompt=["+12+9", "?c"])
    for i, answer in enumerate(found.answers):
        assert found.num_new_tokens[i] == len(answer) <= found.canvas[i]
        assert all(0 < cut <= len(answer) for cut in found.boundaries[i])
        posterior = found.end_posterior[i]
        assert float(posterior.sum()) == 1.0 or abs(float(posterior.sum()) - 1) < 1e-6
    assert found.history == []
