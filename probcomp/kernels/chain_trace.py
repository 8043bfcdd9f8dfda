"""Which modules are a chain of linear layers and activations, read from their own ``forward``."""

from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional

from probcomp.kernels.module import MaskedLinear

LARGEST = 64  # children of a module that is looked at: tracing runs its forward
_MODULES = {nn.ReLU: "relu", nn.SiLU: "silu"}
_FUNCTIONS: dict[Any, str] = {
    torch.relu: "relu", functional.relu: "relu", "relu": "relu", functional.silu: "silu",
    functional.gelu: "gelu", torch.flatten: "flatten", "flatten": "flatten",
}  # fmt: skip
_FLATTEN: tuple[tuple, dict] = ((1,), {})


class Steps(NamedTuple):
    """Linear layers by name with the activation after each; the input may be flattened first."""

    layers: tuple[tuple[str, str], ...]
    flattens: bool


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        return True


def trace_steps(module: nn.Module) -> Steps | None:
    """The chain that a module computes in eval mode, or None where it is another thing.

    Only modules are traced whose children are all layers without children, two of them linear.
    """
    children = list(module.children())
    linear = [c for c in children if type(c) in (nn.Linear, MaskedLinear)]
    small = len(children) <= LARGEST and not any(list(c.children()) for c in children)
    replaced = "forward" in module.__dict__  # on the object: the tracer would read the class's
    if len(linear) < 2 or not small or replaced:
        return None
    training = module.training
    try:
        graph = _Tracer().trace(module.eval())
    except Exception:  # a forward may do anything with a proxy; then it is no plain chain
        return None
    finally:
        module.train(training)
    return _read(module, list(graph.nodes))


def _read(module: nn.Module, nodes: list[fx.Node]) -> Steps | None:
    first, *middle, last = nodes
    if first.op != "placeholder" or last.op != "output" or last.args != (nodes[-2],):
        return None
    layers: list[tuple[str, str]] = []
    flattens = False
    before = first
    for node in middle:
        if not node.args or node.args[0] is not before or len(before.users) != 1:
            return None
        kind = _kind(module, node)
        if kind == "linear":
            layers.append((str(node.target), "none"))
        elif kind == "flatten" and not layers and not flattens:
            flattens = True
        elif kind in ("relu", "gelu", "gelu_tanh", "silu") and layers and layers[-1][1] == "none":
            layers[-1] = (layers[-1][0], kind)
        elif kind != "identity":
            return None
        before = node
    return Steps(tuple(layers), flattens) if len(layers) > 1 else None


def _kind(module: nn.Module, node: fx.Node) -> str | None:
    """What a node does to its first argument, or None for something else."""
    plain = (tuple(node.args[1:]), dict(node.kwargs))
    if node.op == "call_module":
        part = module.get_submodule(str(node.target))
        if plain != ((), {}):
            return None
        if type(part) in (nn.Linear, MaskedLinear):
            return "linear"
        if isinstance(part, nn.GELU):
            return "gelu" if part.approximate == "none" else "gelu_tanh"
        if isinstance(part, nn.Flatten):
            return "flatten" if (part.start_dim, part.end_dim) == (1, -1) else None
        if isinstance(part, nn.Identity | nn.Dropout):
            return "identity"
        return _MODULES.get(type(part))
    kind = _FUNCTIONS.get(node.target)
    if kind == "flatten":
        return kind if plain == _FLATTEN else None
    if kind == "gelu" and plain == ((), {"approximate": "tanh"}):
        return "gelu_tanh"
    return kind if plain in (((), {}), ((), {"inplace": False})) else None
