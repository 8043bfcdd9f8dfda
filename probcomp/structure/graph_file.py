"""A graph module as data: its nodes in JSON, its tensors by name."""

import dataclasses
import math
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from probcomp.errors import InputError
from probcomp.structure.describe import check_tensors, import_path, resolve
from probcomp.structure.graph_cut import expect_shape

_PYTHON = {
    f"{home}:{function.__name__}": function
    for home, module in (("operator", operator), ("math", math))
    for function in vars(module).values()
    if callable(function) and not function.__name__.startswith("_")
} | {
    f"torch:{name}": getattr(torch, name)
    for name in dir(torch)
    if name.startswith("sym_") or name == "_sym_sqrt"
}
# The one function of ours that a cut graph calls.
_PYTHON["probcomp:expect_shape"] = expect_shape
_PATHS = {function: path for path, function in _PYTHON.items()}
_NAMED = (torch.dtype, torch.layout, torch.memory_format)


def write(module: fx.GraphModule) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Describe a graph module as JSON-ready data and named tensors.

    Raises:
        InputError: for nodes that call anything but operators, or attributes that are no tensors.
    """
    tensors: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    nodes = []
    for node in module.graph.nodes:
        form: dict[str, Any] = {"name": node.name, "kind": node.op}
        if node.op == "call_function":
            form["target"] = _target(node)
        elif node.op in ("placeholder", "get_attr"):
            form["target"] = str(node.target)
            if node.op == "get_attr" and form["target"] not in tensors:
                raise InputError(f"cannot save the graph: {form['target']!r} is not a tensor of it")
        elif node.op != "output":
            raise InputError(f"cannot save the graph: node {node.name} is a {node.op}")
        form["args"] = _value(tuple(node.args), node.name)
        form["kwargs"] = _value(dict(node.kwargs), node.name)
        nodes.append(form)
    return {
        "nodes": nodes,
        "training": module.training,
        "parameters": {n: p.requires_grad for n, p in module.named_parameters()},
        "tensors": {
            name: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
            for name, t in tensors.items()
        },
    }, tensors


def _target(node: fx.Node) -> dict[str, str]:
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return {"operator": target._schema.name, "overload": target._overloadname}
    if target in _PATHS:
        return {"python": _PATHS[target]}
    path = import_path(target)
    if path is not None and _is_record(target):
        return {"record": path}
    raise InputError(f"cannot save the graph: node {node.name} calls {target!r}")


def _is_record(target: Any) -> bool:
    """Classes of results: dictionaries, named tuples and dataclasses."""
    return isinstance(target, type) and (
        issubclass(target, dict | tuple) or dataclasses.is_dataclass(target)
    )


def _value(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, _NAMED):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, slice):
        return {"slice": [_value(v, where) for v in (value.start, value.stop, value.step)]}
    if isinstance(value, tuple | list):
        items = [_value(v, where) for v in value]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        return {"dict": [[k, _value(v, where)] for k, v in value.items()]}
    raise InputError(f"cannot save the graph: node {where} has a {type(value).__name__} argument")


def read(form: dict[str, Any], tensors: Mapping[str, Tensor], where: str) -> fx.GraphModule:
    """Make the graph module that `write` described.

    Raises:
        InputError: for tensors that do not fit, or operators that do not exist here.
    """
    try:
        check_tensors(form["tensors"], tensors, where)
        grad = form["parameters"]
        attributes = {
            name: nn.Parameter(t, requires_grad=grad[name]) if name in grad else t
            for name, t in tensors.items()
        }
        graph = fx.Graph()
        env: dict[str, fx.Node] = {}
        for node in form["nodes"]:
            args = _read(node["args"], env)
            kwargs = dict(_read(node["kwargs"], env))
            if node["kind"] == "output":
                env[node["name"]] = graph.output(*args)
                continue
            target = _called(node["target"]) if node["kind"] == "call_function" else node["target"]
            env[node["name"]] = graph.create_node(node["kind"], target, args, kwargs, node["name"])
        module = fx.GraphModule(attributes, graph)
        return module.train(bool(form["training"]))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: malformed description of the graph: {error!r}") from error


def _called(target: dict[str, str]) -> Any:
    if "python" in target:
        if target["python"] not in _PYTHON:
            raise InputError(f"the graph calls {target['python']!r}, which is not allowed")
        return _PYTHON[target["python"]]
    if "record" in target:
        record = resolve(target["record"])
        if not _is_record(record):
            raise InputError(f"the graph calls {target['record']!r}, which is no class of results")
        return record
    namespace, _, name = target["operator"].partition("::")
    try:
        packet = getattr(getattr(torch.ops, namespace), name)
        return getattr(packet, target["overload"] or "default")
    except AttributeError as error:
        raise InputError(f"operator {target['operator']!r} does not exist here") from error


def _read(value: Any, env: Mapping[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_read(v, env) for v in value]
    if not isinstance(value, dict):
        return value
    ((tag, body),) = value.items()
    readers: dict[str, Any] = {
        "node": lambda: env[body],
        "float": lambda: float(body),
        "torch": lambda: getattr(torch, body),
        "device": lambda: torch.device(body),
        "tuple": lambda: tuple(_read(v, env) for v in body),
        "slice": lambda: slice(*(_read(v, env) for v in body)),
        "dict": lambda: {k: _read(v, env) for k, v in body},
    }
    if tag not in readers:
        raise InputError(f"unknown value {tag!r} in the description of a graph")
    return readers[tag]()
