"""Text files as token tensors, with a tokenizer made on the spot."""

import gzip
import json
import lzma
from pathlib import Path

import pytest
import torch

from probcomp.data import Reading, is_text, load_tokenizer, read_text
from probcomp.errors import InputError

WORDS = [f"w{i}" for i in range(50)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """One token a word, saved and read back from local files."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", *WORDS])}
    raw = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]")
    made.save_pretrained(folder)
    return load_tokenizer(folder)


def lines(count: int = 40) -> list[str]:
    return [" ".join(WORDS[(i + j) % 50] for j in range(3 + i % 5)) for i in range(count)]


def write(path: Path, text: str) -> Path:
    opener = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.xz", "a.txt.gz", "a.jsonl", "a.jsonl.xz"])
def test_lines_and_rows_in_every_packing(tmp_path, tokenizer, name) -> None:
    rows = lines()
    text = "\n".join(json.dumps({"text": t, "n": 1}) if ".jsonl" in name else t for t in rows)
    path = write(tmp_path / name, text)
    assert is_text(path)
    data = read_text(path, tokenizer, Reading(samples=8, max_length=6))
    assert data.train["input_ids"].shape == (8, 6)
    assert data.test["input_ids"].shape == (8, 6)
    known = {tuple(tokenizer(t)["input_ids"][:6]) for t in rows}
    for part in (data.train, data.test):
        for ids, mask in zip(part["input_ids"], part["attention_mask"]):
            assert tuple(ids[mask.bool()].tolist()) in known
    both = torch.cat([data.train["input_ids"], data.test["input_ids"]])
    assert len({tuple(row.tolist()) for row in both}) == 16


def test_windows_are_disjoint_pieces_of_the_text(tmp_path, tokenizer) -> None:
    words = [WORDS[i * i % 50] for i in range(205)]
    path = write(tmp_path / "b.txt", " ".join(words))
    data = read_text(path, tokenizer, Reading(samples=10, max_length=10, windows=True))
    assert data.train["input_ids"].shape == data.test["input_ids"].shape == (10, 10)
    assert bool(data.train["attention_mask"].all())
    stream = tokenizer(" ".join(words))["input_ids"]
    expected = sorted(tuple(stream[i : i + 10]) for i in range(0, 200, 10))
    both = torch.cat([data.train["input_ids"], data.test["input_ids"]]).tolist()
    assert sorted(map(tuple, both)) == expected


def test_the_seed_chooses_the_samples(tmp_path, tokenizer) -> None:
    path = write(tmp_path / "c.txt", "\n".join(lines()))
    first, again, other = (
        read_text(path, tokenizer, Reading(samples=8, seed=seed)).train["input_ids"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("d.txt", "one two three\n", "1 different lines"),
        ("d.jsonl", '{"body": "a b c"}\n', "text key 'text'.*--text-key"),
        ("d.jsonl", "{broken\n", "line 1: not JSON"),
    ],
)
def test_text_that_does_not_do(tmp_path, tokenizer, name, text, says) -> None:
    with pytest.raises(InputError, match=says):
        read_text(write(tmp_path / name, text), tokenizer, Reading())


def test_too_little_text_for_windows(tmp_path, tokenizer) -> None:
    path = write(tmp_path / "e.txt", "\n".join(lines(4)))
    with pytest.raises(InputError, match="smaller --max-length"):
        read_text(path, tokenizer, Reading(windows=True, max_length=50))


def test_a_missing_tokenizer_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match="has no tokenizer"):
        load_tokenizer(tmp_path)


def test_bytes_that_are_no_text(tmp_path, tokenizer) -> None:
    path = tmp_path / "f.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_text(path, tokenizer, Reading())
    broken = tmp_path / "g.txt.xz"
    broken.write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot read"):
        read_text(broken, tokenizer, Reading())


def test_readings_that_make_no_sense() -> None:
    with pytest.raises(InputError, match="samples must be at least 2"):
        Reading(samples=1)
