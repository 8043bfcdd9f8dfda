"""What MODEL and --data stand for: files and directories become modules and tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probcomp.errors import InputError
from probcomp.user_file import module_of, running

if TYPE_CHECKING:
    from torch import nn

    from probcomp.data import Data, Reading

EMBEDDED = "digits"
DENSE_EPOCHS = 40
FORMS = (
    "file.py:function that returns a torch module, a directory with a Hugging Face model "
    "(config.json and safetensors), or a directory or .pcn file written by probcomp"
)
STATE_DICTS = (".pt", ".pth", ".th", ".ckpt", ".bin", ".safetensors")
_OWN_FILE = "probcomp.json"
CODED = ".pcn"
"""Ending of a network in one coded file."""


def load_model(source: str) -> "tuple[nn.Module, str]":
    """The module that MODEL stands for, and its name for the report.

    Nothing is downloaded, nothing is unpickled, and no code from a model directory is run.

    Raises:
        InputError: no such thing, or one that does not load, with the cause.
    """
    if _is_call(source):
        from torch import nn

        model = call(source)
        if not isinstance(model, nn.Module):
            raise InputError(f"{source} returned {type(model).__name__}; expected a torch module")
        return model, type(model).__name__
    path = Path(source)
    if not path.exists():
        raise InputError(f"no model at {source}: no such file or directory; expected {FORMS}")
    if path.suffix == CODED and path.is_file():
        from probcomp.coding import read_network

        return read_network(path), path.stem
    if path.is_file():
        if path.suffix == ".py":
            raise InputError(f"{source} is a file; name the function, as in file.py:build")
        tensors = "; for a state dict, a function that builds its network and loads it"
        hint = tensors if path.suffix in STATE_DICTS else ""
        raise InputError(f"{source} is a file; expected {FORMS}{hint}")
    if (path / _OWN_FILE).is_file() or (path / "model" / _OWN_FILE).is_file():
        from probcomp.structure import load

        return load(path), path.resolve().name
    if (path / "config.json").is_file():
        return _hugging_face(path), path.resolve().name
    raise InputError(f"{source} holds neither config.json nor {_OWN_FILE}; expected {FORMS}")


def load_data(
    source: str,
    seed: int,
    *,
    model: "nn.Module | None" = None,
    directory: str | None = None,
    reading: "Reading | None" = None,
) -> "Data":
    """The data that --data stands for: ``digits``, a file, a directory, or ``file.py:function``.

    A function returns a `probcomp.data.Data`, samples, or a pair (training, test) of samples, where
    samples are ``(inputs, targets)`` or a dict of tensors with ``labels``; targets may be absent.
    Text is read with the tokenizer in the model's directory: one example a line, or windows of one
    long text where the model is a causal language model.

    Args:
        source: What --data was given.
        seed: Seed of splits and choices.
        model: The model, for text.
        directory: Where the model came from, for its tokenizer.
        reading: How text becomes samples.
    """
    from probcomp.data import is_text, load_digits, read_data

    if is_text(source) and not _is_call(source):
        return _read_text(source, model, directory, reading)

    if source == EMBEDDED:
        return load_digits(seed)
    if _is_call(source):
        return _as_data(call(source), source)
    return read_data(source)


def _read_text(
    source: str, model: "nn.Module | None", directory: str | None, reading: "Reading | None"
) -> "Data":
    import dataclasses

    from probcomp.data import Reading, load_tokenizer, read_text
    from probcomp.recipes.label_free import reads_causally

    if model is None or directory is None or not Path(directory).is_dir():
        raise InputError(
            f"--data {source} is text, which is read with a model's own tokenizer: MODEL must be a "
            "directory with a Hugging Face model and its tokenizer"
        )
    path = Path(directory)
    tokenizer = load_tokenizer(path if (path / "config.json").is_file() else path / "model")
    reading = reading or Reading()
    longest = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if isinstance(longest, int) and longest < reading.max_length:
        reading = dataclasses.replace(reading, max_length=longest)
    vocabulary = len(tokenizer)
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    rows = getattr(embeddings, "num_embeddings", vocabulary)
    if vocabulary > rows:
        raise InputError(
            f"the tokenizer in {directory} has {vocabulary:,} tokens, the model {rows:,}; it is "
            "another model's tokenizer"
        )
    reading = dataclasses.replace(reading, windows=reads_causally(model, rows))
    return read_text(source, tokenizer, reading)


def default_model(data: "Data", seed: int, progress: bool) -> "tuple[nn.Module, str]":
    """A LeNet-300-100-shaped network for the embedded digits, trained on the spot."""
    import torch

    from probcomp.data import Batches
    from probcomp.models import LeNet300100, train

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LeNet300100(64)
    batches = Batches(data.train, 64, seed)
    title = "training the dense network"
    train(model, batches, epochs=DENSE_EPOCHS, seed=seed, progress=progress, title=title)
    return model, "64-300-100-10"


TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model",
    "chat_template.jinja", "sentence_bert_config.json", "modules.json", "1_Pooling/config.json",
    "config_sentence_transformers.json",
)  # fmt: skip


def copy_tokenizer(model: str, out: Path) -> None:
    """Put the tokenizer (and pooling) files of a model directory beside the compressed model."""
    import shutil

    source = Path(model) if (Path(model) / "config.json").is_file() else Path(model) / "model"
    for name in TOKENIZER_FILES:
        if (source / name).is_file() and not (out / name).exists():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, out / name)


def call(source: str) -> Any:
    """Run ``file.py:function`` and return what the function returns.

    The file's own directory can be imported from while it runs.

    Raises:
        InputError: no such file or function, or an error inside it, with its line.
    """
    file, _, name = source.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise InputError(f"no file {file} (from {source!r})")
    module = module_of(path, "probcomp_user_", source)
    function = getattr(module, name, None)
    if not callable(function):
        found = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise InputError(f"{file} has no function {name!r}; it has {', '.join(found) or 'none'}")
    with running(path, source):
        return function()


def _is_call(source: str) -> bool:
    return ".py:" in source


def _hugging_face(path: Path) -> "nn.Module":
    """The class that the configuration names, from local files alone."""
    from probcomp.storage import read_json

    names = read_json(path / "config.json").get("architectures") or []
    if not list(path.glob("*.safetensors")):
        raise InputError(f"{path} has no *.safetensors file; other weight formats are not read")
    import transformers

    classes = [c for c in (getattr(transformers, str(n), None) for n in names) if c is not None]
    if not classes:
        raise InputError(
            f"{path}/config.json names the architectures {names}; transformers "
            f"{transformers.__version__} has none of them, and code from model directories is not "
            "run"
        )
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        return classes[0].from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # every model class fails in its own way on damaged files
        raise InputError(f"{path} does not load as {names[0]}: {error}") from error


def _as_data(value: Any, source: str) -> "Data":
    from probcomp.data import Data
    from probcomp.data.dataset import count_classes

    if isinstance(value, Data):
        return value
    train: Any
    test: Any
    if _is_samples(value):
        train, test = value, None
    elif isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_samples, value)):
        train, test = value
    else:
        raise InputError(
            f"{source} returned {type(value).__name__}; expected (inputs, targets), a dict of "
            "tensors with labels (or either without targets), or a pair (training, test) of those"
        )
    train, test = (tuple(s) if isinstance(s, list) else s for s in (train, test))
    single = not isinstance(train, Mapping) and len(train) < 2
    targets = train.get("labels") if isinstance(train, Mapping) else None if single else train[-1]
    classes = 0 if targets is None else count_classes(targets)
    return Data(train, test, Path(source.rpartition(":")[0]).stem, classes)


def _is_samples(value: Any) -> bool:
    import torch

    if isinstance(value, Mapping):
        return bool(value) and all(isinstance(v, torch.Tensor) for v in value.values())
    if not isinstance(value, tuple | list) or len(value) not in (1, 2):
        return False
    return all(isinstance(v, torch.Tensor) for v in value)
