"""Compressed Hugging Face models stay stock: a class, its configuration, safetensors.

Equal widths give a configuration that ``from_pretrained`` reads by itself. Uneven widths are
written as ``per_layer_config``; the stock class reads that field but does not build from it yet,
so a small subclass, made while loading, rebuilds each layer from its own configuration. What was
written is read back and compared with the model before it counts as saved.
"""

import copy
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from probcomp.errors import InputError
from probcomp.storage import read_json, read_tensors, write_tensors
from probcomp.structure.config_search import (
    layer_builder,
    layer_list,
    readable_extras,
    search,
    shapes_of,
)
from probcomp.structure.describe import import_path, resolve, settle, stock_class
from probcomp.structure.same import NotStock, check_same

BUFFERS = "buffers.safetensors"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "preprocessor_config.json",
)


def is_huggingface(model: nn.Module) -> bool:
    """Whether ``model`` is a Hugging Face model; does not import the library to find out."""
    library = sys.modules.get("transformers")
    return library is not None and isinstance(model, library.PreTrainedModel)


@dataclass(frozen=True)
class Plan:
    """How a stock class rebuilds a model.

    Attributes:
        config: global configuration.
        layers: path of the list of layers, when their widths differ.
        overrides: layer index -> changed fields, when their widths differ.
    """

    config: Any
    layers: str | None = None
    overrides: Mapping[int, Mapping[str, Any]] | None = None


def plan(model: Any) -> Plan:
    """Find the configuration (and the per-layer overrides) that give the model's shapes.

    Raises:
        NotStock: when no configuration does.
    """
    cls, config = stock_class(type(model)), copy.deepcopy(model.config)
    config.__dict__.pop("_heterogeneity_spec", None)
    target = shapes_of(model)
    uniform = search(cls, config, target)
    if uniform is not None and _constructible(config, uniform):
        return Plan(_with(config, uniform))
    path = layer_list(model)
    if path is None:
        raise NotStock("the widths differ from the configuration outside one list of equal layers")

    def outside(name: str) -> bool:
        return not name.startswith(path + ".")

    layers = model.get_submodule(path)
    depth = _depth(cls, config, path, len(layers))
    base = search(cls, depth, target, within=outside)
    if base is None or not _constructible(depth, base):
        raise NotStock("no configuration gives the widths outside the list of layers")
    config = _with(depth, base)
    overrides: dict[int, Mapping[str, Any]] = {}
    extras: dict[int, dict[str, int]] = {}
    for i, layer in enumerate(layers):
        make = layer_builder(layer)
        assert make is not None
        extras[i] = readable_extras(layer, config)
        edits = search(
            lambda c, i=i, make=make: make(c, i),  # type: ignore[misc]
            config,
            shapes_of(layer),
            extra=extras[i],
        )
        if edits is None:
            raise NotStock(f"no configuration gives the widths of {path}.{i}")
        overrides[i] = edits
    first = overrides[0]
    if all(o == first for o in overrides.values()) and _constructible(config, first):
        candidate = _with(config, first)
        with torch.device("meta"):
            stock = cls(candidate)
        if shapes_of(stock) == target:
            return Plan(candidate)
    # A field that the configuration lacks has to be given for every layer.
    fields = {name for edits in overrides.values() for name in edits}
    everywhere = {
        i: {n: edits.get(n, extras[i].get(n, getattr(config, n, None))) for n in fields}
        for i, edits in overrides.items()
    }
    return Plan(config, path, everywhere)


def _with(config: Any, edits: Mapping[str, Any]) -> Any:
    config = copy.deepcopy(config)
    for name, value in edits.items():
        setattr(config, name, value)
    return config


def _constructible(config: Any, edits: Mapping[str, Any]) -> bool:
    """Whether the library's own checks accept the configuration when it is read back."""
    try:
        type(config).from_dict(_with(config, edits).to_dict())
    except Exception:  # each configuration class checks in its own way
        return False
    return True


def _depth(cls: Any, config: Any, path: str, depth: int) -> Any:
    """The configuration with as many layers as the model has left."""
    with torch.device("meta"):
        old = len(cls(copy.deepcopy(config)).get_submodule(path))
    if old == depth:
        return config
    for name, value in vars(config).items():
        if isinstance(value, int) and not isinstance(value, bool) and value == old:
            with suppress(Exception):  # a wrong field may be refused in any way
                candidate = _with(config, {name: depth, **_shortened(config, old, depth)})
                with torch.device("meta"):
                    if len(cls(candidate).get_submodule(path)) == depth:
                        return candidate
    raise NotStock(f"no configuration gives {depth} layers in {path}")


def _shortened(config: Any, old: int, depth: int) -> dict[str, Any]:
    """Lists with one entry per layer, if they are the same for all layers."""
    short: dict[str, Any] = {}
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == old and len(set(map(str, value))) == 1:
            short[name] = value[:depth]
    return short


# Writing and reading -----------------------------------------------------------------------------


def write(model: Any, directory: Path, tokenizer: Any = None) -> dict[str, Any]:
    """Write ``model`` as a stock model into ``directory`` and return the recipe entries.

    Raises:
        NotStock: when what comes back would not be the same model.
    """
    path = import_path(stock_class(type(model)))
    if path is None:
        raise NotStock(f"the class {type(model).__qualname__} cannot be imported by name")
    planned = plan(model)
    recipe = {
        "class": path,
        "layers": planned.layers,
        "attention": getattr(model.config, "_attn_implementation", None),
    }
    state = model.state_dict()
    try:
        shell = _shell(stock_class(type(model)), planned)
    except (ValueError, TypeError) as error:  # the library's own checks
        raise NotStock(f"the configuration is refused: {error}") from error
    try:
        shell.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise NotStock(f"the rebuilt class does not take the weights: {error}") from error
    if shell.can_generate() and model.generation_config is not None:
        shell.generation_config = copy.deepcopy(model.generation_config)
    shell.config.dtype = next((t.dtype for t in state.values() if t.is_floating_point()), None)
    shell.save_pretrained(directory, safe_serialization=True)
    # Buffers a class computes for itself may depend on the precision they were made in.
    computed = {n: b for n, b in model.named_buffers() if n not in state}
    if computed:
        write_tensors(directory / BUFFERS, computed)
    check_same(model, read(directory, recipe))
    copy_tokenizer(model, directory, tokenizer)
    return recipe


def _shell(cls: Any, planned: Plan) -> Any:
    config = copy.deepcopy(planned.config)
    if planned.layers is not None:
        config.allow_global_per_layer_attribute_access = True
        config.per_layer_config = {i: dict(o) for i, o in (planned.overrides or {}).items()}
        cls = uneven(cls, planned.layers)
    with torch.device("meta"):
        return cls(config)


def uneven(cls: Any, layers: str) -> Any:
    """A subclass of a stock class that builds each layer from its own configuration.

    It keeps the class's name, so that the saved configuration names the stock class.
    """

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, config, *args, **kwargs)
        held = self.get_submodule(layers)
        for i, layer in enumerate(held):
            make = layer_builder(layer)
            if make is None:
                raise InputError(f"cannot rebuild {layers}.{i} from a configuration")
            held[i] = make(config.per_layer_config[i], i)
        self.post_init()

    body = {
        "__init__": __init__,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "_probcomp_stock": cls,
    }
    return type(cls.__name__, (cls,), body)


def read(directory: Path, recipe: Mapping[str, Any]) -> Any:
    """Load a model that `write` wrote.

    Raises:
        InputError: for a class that is no Hugging Face model, or files that do not fit.
    """
    import transformers

    cls: Any = resolve(recipe["class"])
    family = transformers.PreTrainedModel
    if not (isinstance(cls, type) and issubclass(cls, family) and cls.config_class is not None):
        raise InputError(f"{recipe['class']!r} is not a Hugging Face model class")
    fields = read_json(directory / "config.json")
    per_layer = fields.pop("per_layer_config", None)
    try:
        config = cls.config_class.from_dict(fields)
        if recipe["layers"] is not None:
            config.allow_global_per_layer_attribute_access = True
            config.per_layer_config = per_layer
            cls = uneven(cls, recipe["layers"])
        model, info = cls.from_pretrained(
            directory,
            config=config,
            dtype="auto",
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **({"attn_implementation": recipe["attention"]} if recipe.get("attention") else {}),
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise InputError(f"cannot load {directory}: {error}") from error
    if lost := [*info["missing_keys"], *info["unexpected_keys"]]:
        raise InputError(f"cannot load {directory}: tensor {sorted(lost)[0]!r} does not fit")
    settle(model)
    if (directory / BUFFERS).is_file():
        held = dict(model.named_buffers())
        for name, tensor in read_tensors(directory / BUFFERS).items():
            if name not in held or held[name].shape != tensor.shape:
                raise InputError(f"cannot load {directory}: buffer {name!r} does not fit")
            held[name].data = tensor.to(held[name].device)
    return model.eval()


def copy_tokenizer(model: Any, directory: Path, tokenizer: Any) -> None:
    """Write the tokenizer, or copy its files from where the model was loaded from."""
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
        return
    origin = Path(str(getattr(model.config, "_name_or_path", "") or "."))
    if str(origin) != "." and origin.is_dir() and origin.resolve() != directory.resolve():
        for name in _TOKENIZER_FILES:
            if (origin / name).is_file():
                shutil.copyfile(origin / name, directory / name)
