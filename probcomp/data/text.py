"""Text files become token tensors: one example a line, or windows of one long text."""

import copy
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probcomp.data.dataset import Data
from probcomp.errors import InputError, unknown

TEXT_SUFFIXES = (".txt", ".jsonl", ".md")
_OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open}
LEAST_WORDS = 3
"""Shorter lines are headings and blanks; they are no examples."""


@dataclass(frozen=True)
class Reading:
    """How text is turned into samples.

    Attributes:
        samples: Training (calibration) samples, and as many held-out ones where the text has them.
        max_length: Most tokens of a sample.
        key: The key of a .jsonl row that holds the text.
        windows: Cut one long text into windows of ``max_length`` tokens, as language models are
            calibrated, instead of one example a line.
        seed: Seed of the choice of samples.
    """

    samples: int = 128
    max_length: int = 128
    key: str = "text"
    windows: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "max_length"):
            if getattr(self, name) < 2:
                raise InputError(f"{name} must be at least 2, got {getattr(self, name)}")


def is_text(path: Path | str) -> bool:
    """Whether the name is that of a text file: .txt, .md or .jsonl, plain or with .xz or .gz."""
    return _plain(Path(path)) in TEXT_SUFFIXES


def load_tokenizer(directory: Path | str) -> Any:
    """The tokenizer that came with a model, from local files alone.

    Raises:
        InputError: The directory has none.
    """
    directory = Path(directory)
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")
    if not any((directory / name).is_file() for name in names):
        raise InputError(
            f"{directory} has no tokenizer ({', '.join(names[:3])} ...), so text cannot be read "
            "for it; save the tokenizer beside the model, or give token ids in an .npz file"
        )
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # each tokenizer class fails in its own way on damaged files
        raise InputError(f"the tokenizer in {directory} does not load: {error}") from error


def read_text(path: Path | str, tokenizer: Any, reading: Reading) -> Data:
    """Read a text file as inputs without labels: ``input_ids`` and ``attention_mask``.

    Lines: a seeded choice of different lines (or .jsonl rows), padded to the longest. Windows:
    the whole text is tokenised once, cut into windows that do not overlap, and a seeded choice of
    them is taken; nothing is padded. Training and held-out samples are disjoint.

    Raises:
        InputError: A file that cannot be read or decoded, without text, or too short.
    """
    path = Path(path)
    lines = _lines(path, reading.key)
    if reading.windows:
        inputs = _windows(lines, tokenizer, reading, path)
    else:
        inputs = _examples(lines, tokenizer, reading, path)
    count = len(inputs["input_ids"])
    train = count // 2 if count < 2 * reading.samples else reading.samples
    parts = [
        {name: tensor[start:end] for name, tensor in inputs.items()}
        for start, end in ((0, train), (train, count))
    ]
    return Data(parts[0], parts[1], path.name, 0)


def _plain(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in _OPENERS else path.suffix


def _lines(path: Path, key: str) -> list[str]:
    if not path.is_file():
        raise InputError(f"no data at {path}: no such file")
    opener = _OPENERS.get(path.suffix, open)
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            raw = file.read()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if _plain(path) != ".jsonl":
        return raw.splitlines()
    texts = []
    for number, line in enumerate(raw.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error.msg})") from error
        if not isinstance(row, dict) or not isinstance(row.get(key), str):
            known = (
                [k for k, v in row.items() if isinstance(v, str)] if isinstance(row, dict) else []
            )
            error_ = unknown("text key", key, known)
            raise InputError(f"{path}, line {number}: {error_} Choose one by --text-key.")
        texts.append(row[key])
    return texts


def _examples(
    lines: Sequence[str], tokenizer: Any, reading: Reading, path: Path
) -> dict[str, Tensor]:
    texts = list(dict.fromkeys(t for t in map(str.strip, lines) if len(t.split()) >= LEAST_WORDS))
    if len(texts) < 4:
        raise InputError(
            f"{path} has {len(texts)} different lines of {LEAST_WORDS} words or more; at least 4 "
            "are needed, and 64 or more should be given"
        )
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(reading.seed))
    chosen = [texts[i] for i in order[: 2 * reading.samples].tolist()]
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise InputError(
                "the tokenizer has neither a padding token nor an end-of-text token; set "
                "tokenizer.pad_token and save it with the model"
            )
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
    encoded = tokenizer(
        chosen, padding=True, truncation=True, max_length=reading.max_length, return_tensors="pt"
    )
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def _windows(
    lines: Sequence[str], tokenizer: Any, reading: Reading, path: Path
) -> dict[str, Tensor]:
    text = "\n".join(lines)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    count = len(ids) // reading.max_length
    if count < 4:
        raise InputError(
            f"{path} has {len(ids)} tokens, which is {count} windows of {reading.max_length}; at "
            "least 4 are needed: give more text, or a smaller --max-length"
        )
    windows = ids[: count * reading.max_length].view(count, reading.max_length)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(reading.seed))
    chosen = windows[order[: 2 * reading.samples]]
    return {"input_ids": chosen, "attention_mask": torch.ones_like(chosen)}
