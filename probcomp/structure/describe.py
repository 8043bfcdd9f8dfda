"""A module as data: its tree of classes and attributes in JSON, its tensors by name.

Enough to make the same module again without running its constructor and without pickle: after a
cut no constructor call gives these shapes. What cannot be written as data is refused by the path
of the attribute. Reading makes modules with ``cls.__new__`` and puts the attributes back.
"""

import enum
import functools
import importlib
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.structure.masks import MASKS_ATTRIBUTE
from probcomp.structure.provenance import is_config

_BOOKKEEPING = frozenset(vars(nn.Module())) - {"training"}
# Hooks around state dictionaries change no output; all others would be lost silently.
_HOOKS = tuple(n for n in _BOOKKEEPING if n.endswith("_hooks") and "state_dict" not in n)
# Where a plain function in an attribute (an activation, say) may come from, beside the packages
# of the model's own classes.
_FUNCTION_PACKAGES = frozenset({"torch", "math", "operator", "transformers"})


def import_path(thing: Any) -> str | None:
    """``"module:qualified.name"`` that leads back to ``thing``, or None if nothing does."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    own = getattr(thing, "__name__", None)
    paths = [f"{module}:{name}"] if module and name and "<locals>" not in name else []
    # Built-in functions do not say where they can be found.
    paths += [f"{home}:{own}" for home in ("torch", "torch._C._nn", "math") if own]
    for path in paths:
        try:
            if resolve(path) is thing:
                return path
        except InputError:
            continue
    return None


def resolve(path: str) -> Any:
    """The object at ``"module:qualified.name"``."""
    module, _, name = path.partition(":")
    try:
        thing: Any = importlib.import_module(module)
        for part in name.split("."):
            thing = getattr(thing, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"cannot import {path!r}, which the saved model is made of") from error
    return thing


_COLLECTIONS: tuple[type, ...] = (tuple, torch.Size, set, frozenset)


def stock_class(cls: Any) -> Any:
    """The importable class behind one that was made while loading uneven layers."""
    return vars(cls).get("_probcomp_stock", cls)


# Writing -----------------------------------------------------------------------------------------


class _Writer:
    def __init__(self, model: nn.Module) -> None:
        self.paths = {id(m): path for path, m in model.named_modules()}
        self.tensors: dict[str, Tensor] = {}
        self.names: dict[int, str] = {}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self.tensor(tensor, name)
        self.objects: dict[int, int] = {}  # id of a configuration -> its number
        self.configs: list[dict[str, Any]] = []
        self.alive: list[Any] = []  # ids stay valid while their objects live

    def tensor(self, tensor: Tensor, name: str) -> str:
        if id(tensor) not in self.names:
            if tensor.layout is not torch.strided or tensor.is_quantized:
                raise InputError(f"cannot save {name}: only dense tensors can be written")
            self.names[id(tensor)] = name
            self.tensors[name] = tensor
        return self.names[id(tensor)]

    def value(self, value: Any, where: str) -> Any:
        if value is None or isinstance(value, str) or type(value) is bool:
            return value
        if isinstance(value, enum.Enum):
            return {"enum": self.path(type(value), where), "name": value.name}
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"float": repr(float(value))}
        if isinstance(value, nn.Module):
            if id(value) not in self.paths:
                raise InputError(f"cannot save {where}: it holds a module outside the model")
            return {"module": self.paths[id(value)]}
        if isinstance(value, Tensor):
            return {"tensor": self.tensor(value, f"_attribute.{where}")}
        if isinstance(value, torch.dtype | torch.device):
            return {type(value).__name__: str(value).removeprefix("torch.")}
        if is_config(value):
            return {"config": self.config(value, where)}
        if type(value) is list:
            return [self.value(v, f"{where}[{i}]") for i, v in enumerate(value)]
        if type(value) in _COLLECTIONS:
            return {
                type(value).__name__: [self.value(v, f"{where}[{i}]") for i, v in enumerate(value)]
            }
        if type(value) in (dict, OrderedDict):
            pairs = [
                [self.value(k, where), self.value(v, f"{where}[{k!r}]")] for k, v in value.items()
            ]
            return {"dict": pairs}
        if type(value) is functools.partial:
            parts = {"args": list(value.args), "keywords": dict(value.keywords)}
            written = {k: self.value(v, f"{where}.{k}") for k, v in parts.items()}
            return {"partial": self.path(value.func, where), **written}
        if isinstance(value, type) or callable(value):
            return {"function": self.path(value, where)}
        raise InputError(
            f"cannot save {where}: a {type(value).__name__} cannot be written without pickle"
        )

    def path(self, thing: Any, where: str) -> str:
        path = import_path(thing)
        if path is None:
            name = getattr(thing, "__qualname__", type(thing).__name__)
            raise InputError(
                f"cannot save {where}: {name} cannot be imported by name; "
                "define it at the top level of a module"
            )
        return path

    def config(self, value: Any, where: str) -> int:
        if id(value) not in self.objects:
            number = self.objects[id(value)] = len(self.configs)
            self.configs.append({})
            self.alive.append(value)
            entries = {k: self.value(v, f"{where}.{k}") for k, v in vars(value).items()}
            self.configs[number] = {"class": self.path(type(value), where), "entries": entries}
        return self.objects[id(value)]

    def module(self, path: str, module: nn.Module) -> dict[str, Any]:
        where = path or type(module).__name__
        for name in _HOOKS:
            if vars(module).get(name):
                raise InputError(f"cannot save {where}: it has hooks ({name}); remove them first")
        return {
            "class": self.path(stock_class(type(module)), where),
            "attributes": {
                name: self.value(value, f"{where}.{name}")
                for name, value in vars(module).items()
                if name not in _BOOKKEEPING and name != MASKS_ATTRIBUTE
            },
            "modules": {
                name: None if child is None else self.paths[id(child)]
                for name, child in module._modules.items()
            },
            "parameters": {
                name: None if p is None else [self.names[id(p)], p.requires_grad]
                for name, p in module._parameters.items()
            },
            "buffers": {
                name: None
                if b is None
                else [self.names[id(b)], name not in module._non_persistent_buffers_set]
                for name, b in module._buffers.items()
            },
        }


def write(model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Describe ``model`` as JSON-ready data and named tensors.

    Raises:
        InputError: naming the attribute or class that cannot be written.
    """
    writer = _Writer(model)
    modules = {path: writer.module(path, m) for path, m in model.named_modules()}
    tensors = {
        name: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
        for name, t in writer.tensors.items()
    }
    description = {"modules": modules, "configs": writer.configs, "tensors": tensors}
    return description, writer.tensors


# Reading -----------------------------------------------------------------------------------------


def check_tensors(expected: Any, found: Mapping[str, Tensor], where: str) -> None:
    """Compare names, shapes and dtypes of tensors with what a description promises."""
    if not isinstance(expected, dict):
        raise InputError(f"{where}: the list of tensors is missing")
    if missing := sorted(set(expected) - set(found)):
        raise InputError(f"{where}: tensor {missing[0]!r} is missing")
    if extra := sorted(set(found) - set(expected)):
        raise InputError(f"{where}: tensor {extra[0]!r} is not in the description")
    for name, form in expected.items():
        shape, dtype = list(found[name].shape), str(found[name].dtype).removeprefix("torch.")
        if shape != form["shape"] or dtype != form["dtype"]:
            raise InputError(
                f"{where}: tensor {name!r} is {dtype} {shape}, "
                f"the description says {form['dtype']} {form['shape']}"
            )


class _Reader:
    def __init__(self, description: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)
        self.parameters: dict[str, nn.Parameter] = {}
        self.modules: dict[str, nn.Module] = {}
        self.description = description
        self.packages = set(_FUNCTION_PACKAGES)
        for path, form in description["modules"].items():
            cls = resolve(form["class"])
            if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
                raise InputError(f"{form['class']!r} at {path!r} is not a torch module")
            self.packages.add(cls.__module__.split(".")[0])
            module = cls.__new__(cls)
            nn.Module.__init__(module)
            self.modules[path] = module
        self.configs: list[Any] = []
        for form in description["configs"]:
            cls = resolve(form["class"])
            if not (isinstance(cls, type) and callable(getattr(cls, "to_dict", None))):
                raise InputError(f"{form['class']!r} is not a configuration class")
            self.configs.append(object.__new__(cls))

    def build(self) -> nn.Module:
        for form, config in zip(self.description["configs"], self.configs):
            for name, value in form["entries"].items():
                config.__dict__[name] = self.value(value)
        for path, form in self.description["modules"].items():
            module = self.modules[path]
            for name, entry in form["parameters"].items():
                module._parameters[name] = None if entry is None else self.parameter(*entry)
            for name, entry in form["buffers"].items():
                module._buffers[name] = None if entry is None else self.tensor(entry[0])
                if entry is not None and not entry[1]:
                    module._non_persistent_buffers_set.add(name)
            for name, child in form["modules"].items():
                module._modules[name] = None if child is None else self.modules[child]
            for name, value in form["attributes"].items():
                module.__dict__[name] = self.value(value)
        return self.modules[""]

    def tensor(self, name: str) -> Tensor:
        return self.parameters.get(name, self.tensors[name])

    def parameter(self, name: str, requires_grad: bool) -> nn.Parameter:
        if name not in self.parameters:
            self.parameters[name] = nn.Parameter(self.tensors[name], requires_grad=requires_grad)
        return self.parameters[name]

    def function(self, path: str) -> Any:
        if path.split(":")[0].split(".")[0] not in self.packages:
            raise InputError(f"refused to import {path!r}: not from the model's own packages")
        return resolve(path)

    def value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.value(v) for v in value]
        if not isinstance(value, dict):
            return value
        (tag, body), *rest = value.items()
        if tag == "enum":
            return resolve(body)[rest[0][1]]
        if tag == "float":
            return float(body)
        if tag == "module":
            return self.modules[body]
        if tag == "tensor":
            return self.tensor(body)
        if tag == "dtype":
            return getattr(torch, body)
        if tag == "device":
            return torch.device(body)
        if tag == "config":
            return self.configs[body]
        if tag == "dict":
            return {self.value(k): self.value(v) for k, v in body}
        for kind in _COLLECTIONS:
            if tag == kind.__name__:
                return kind([self.value(v) for v in body])
        if tag == "function":
            return self.function(body)
        if tag == "partial":
            args, keywords = (self.value(v) for _, v in rest)
            return functools.partial(self.function(body), *args, **keywords)
        raise InputError(f"unknown value {tag!r} in the description of a module")


def read(description: dict[str, Any], tensors: Mapping[str, Tensor], where: str) -> nn.Module:
    """Make the module that `write` described.

    Raises:
        InputError: for tensors that do not fit, classes that cannot be imported, or a malformed
            description.
    """
    try:
        check_tensors(description["tensors"], tensors, where)
        return _Reader(description, tensors).build()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: malformed description of the model: {error!r}") from error


def settle(model: nn.Module) -> None:
    """Give every tensor memory of its own: where a file was mapped into memory, its alignment
    chooses the kernels, and the last bit of a product may come out differently."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.detach().clone()
