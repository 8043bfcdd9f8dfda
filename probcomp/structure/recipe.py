"""Saving and loading models of any shape: safetensors and JSON, no pickle.

Three forms, tried in this order:

* ``huggingface``: a stock class with its configuration (and per-layer widths where they differ);
* ``module``: the tree of classes and attributes of a module whose classes can be imported;
* ``graph``: the operators of a model that was cut as a graph.

Loading imports the classes that the recipe names and calls no function it names. (The archive of
``torch.export.save`` is not used: reading it may unpickle tensors and constants.)
"""

import copy
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

import probcomp
from probcomp.errors import InputError
from probcomp.kernels.replace import describe_layers, repack_layers, unpack_layers
from probcomp.storage import read_json, read_tensors, write_json, write_tensors
from probcomp.structure import describe, huggingface
from probcomp.structure.masks import apply_masks, forget_missing, masks_of

FORMAT = 1
RECIPE, WEIGHTS, MASKS = "probcomp.json", "model.safetensors", "masks.safetensors"

_STOCK_FILES = ("model.safetensors.index.json", "config.json", "generation_config.json")


@dataclass(frozen=True)
class Saved:
    """How a model was written: its form, and why not as a stock Hugging Face model, if so."""

    form: str
    not_stock: str | None = None


def save(model: nn.Module, directory: Path | str, *, tokenizer: Any = None) -> Saved:
    """Write a model so that `load` gives back an equal one, bit for bit.

    A Hugging Face model is written as its stock class and configuration, so equal widths also load
    with ``from_pretrained``; its tokenizer goes along. Masks are written too. Either everything is
    written or nothing is.

    Args:
        model: any module whose classes can be imported, a Hugging Face model, or a graph cut.
        directory: made if missing. Other files in it stay; an earlier model in it is replaced.
        tokenizer: saved beside a Hugging Face model. By default, tokenizer files are copied from
            the local directory the model was loaded from, if it was.

    Returns:
        The form it was written in.

    Raises:
        InputError: naming the attribute that cannot be written without pickle, or the reason why
            the directory cannot be written.
    """
    directory = Path(directory)
    packed = describe_layers(model)
    if packed:  # written as ordinary layers and masks, so that every form holds them
        model = copy.deepcopy(model)
        apply_masks(model, unpack_layers(model))
    masks = masks_of(model)
    with _all_or_nothing(directory) as staging:
        recipe: dict[str, Any] = {
            "format": FORMAT,
            "versions": {"probcomp": probcomp.__version__, "torch": torch.__version__},
            "masks": sorted(masks),
            "packed": packed,
        }
        saved = _write(model, staging, recipe, tokenizer)
        if masks:
            write_tensors(staging / MASKS, masks)
        write_json(staging / RECIPE, recipe)
    return saved


def _write(model: Any, staging: Path, recipe: dict[str, Any], tokenizer: Any) -> Saved:
    reason = None
    if huggingface.is_huggingface(model):
        import transformers

        recipe["versions"]["transformers"] = transformers.__version__
        try:
            recipe["huggingface"] = huggingface.write(model, staging, tokenizer)
            recipe["form"] = "huggingface"
            return Saved("huggingface")
        except huggingface.NotStock as error:
            reason = recipe["not_stock"] = str(error)
            for file in staging.iterdir():
                file.unlink()
            model.config.save_pretrained(staging)  # for readers; `load` does not use it
            (staging / "config.json").rename(staging / "dense_config.json")
            huggingface.copy_tokenizer(model, staging, tokenizer)
    if isinstance(model, fx.GraphModule):
        from probcomp.structure import graph_file

        recipe["graph"], tensors = graph_file.write(model)
        recipe["form"] = "graph"
    else:
        recipe["module"], tensors = describe.write(model)
        recipe["form"] = "module"
    write_tensors(staging / WEIGHTS, tensors)
    return Saved(recipe["form"], reason)


def load(directory: Path | str) -> nn.Module:
    """Load a model that `save` wrote: equal outputs, masks in place, evaluation mode as saved.

    Raises:
        InputError: when the directory holds no saved model, a newer format, tensors that do not
            fit the recipe, or classes that cannot be imported here.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"cannot load {directory}: no such directory")
    if (directory / "model" / RECIPE).is_file():  # the output of a whole compression
        directory = directory / "model"
    if not (directory / RECIPE).is_file():
        raise InputError(
            f"cannot load {directory}: it holds no {RECIPE}; was it saved by probcomp?"
        )
    recipe = read_json(directory / RECIPE)
    if not isinstance(recipe, dict) or not isinstance(recipe.get("format"), int):
        raise InputError(f"{directory / RECIPE} is not a recipe: its format number is missing")
    if recipe["format"] > FORMAT:
        raise InputError(
            f"{directory / RECIPE} has format {recipe['format']}, this version reads up to "
            f"{FORMAT}; update probcomp"
        )
    form = recipe.get("form")
    try:
        if form == "huggingface":
            model = huggingface.read(directory, recipe["huggingface"])
        elif form == "module":
            tensors = read_tensors(directory / WEIGHTS)
            model = describe.read(recipe["module"], tensors, str(directory))
        elif form == "graph":
            from probcomp.structure import graph_file

            tensors = read_tensors(directory / WEIGHTS)
            model = graph_file.read(recipe["graph"], tensors, str(directory))
        else:
            raise InputError(f"{directory / RECIPE} has the unknown form {form!r}")
        names = recipe["masks"]
    except KeyError as error:
        raise InputError(f"{directory / RECIPE} lacks the entry {error}") from error
    if form != "huggingface":
        describe.settle(model)
    if names:
        masks = read_tensors(directory / MASKS)
        if sorted(masks) != sorted(names):
            raise InputError(f"{directory / MASKS} does not hold the masks the recipe lists")
        apply_masks(model, masks)
        if recipe.get("packed"):
            repack_layers(model, recipe["packed"], masks)
            forget_missing(model)
    return model


@contextmanager
def _all_or_nothing(directory: Path) -> Iterator[Path]:
    """A staging directory whose files move into ``directory`` only when the block succeeds.

    The recipe moves last and an earlier one goes first, so an interrupted move leaves a directory
    that `load` refuses, never a mixture.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".saving.", dir=directory))
    except OSError as error:
        raise InputError(f"cannot write {directory}: {error.strerror or error}") from error
    try:
        yield staging
        for stale in (RECIPE, WEIGHTS, MASKS, huggingface.BUFFERS, *_STOCK_FILES):
            (directory / stale).unlink(missing_ok=True)
        for shard in directory.glob("model-*-of-*.safetensors"):
            shard.unlink()
        for file in sorted(staging.iterdir(), key=lambda f: f.name == RECIPE):
            os.replace(file, directory / file.name)
    except OSError as error:
        raise InputError(f"cannot write {directory}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
