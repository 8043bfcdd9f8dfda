"""The dense model with units switched off: the reference that every cut must equal."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.overrides import TorchFunctionMode

from probcomp.errors import SurgeryError
from probcomp.structure.axes import Axis, Keep, Structure
from probcomp.structure.terms import Var, leaves


def silence(structure: Structure, model: torch.nn.Module, keep: Keep) -> torch.nn.Module:
    """A deep copy of ``model`` in which the removed units do nothing.

    Every member slice of a removed unit is set to zero. A removed expert also gets the router logit
    minus infinity, so that it is never chosen and takes no share of the softmax. A removed layer
    has all the weights of its branch set to zero.

    On an axis with ``exact`` true this equals the cut model; on the others it is the usual "mask"
    semantics, and ``inexact_because`` says how the two differ (for experts they agree again).

    Raises:
        SurgeryError: as for a cut, and for a layer or an expert that cannot be silenced in place.
    """
    kept, layers = structure.resolve(keep)
    silent = copy.deepcopy(model)
    tensors: dict[str, torch.Tensor] = dict(silent.named_parameters(remove_duplicate=False))
    tensors.update(silent.named_buffers(remove_duplicate=False))
    routers: list[_Router] = []
    for axis in structure.axes:
        gone = None
        if axis.var in kept:
            gone = ~kept[axis.var]
        elif axis.name in layers:
            if not axis.exact:
                raise SurgeryError(
                    f"layer {axis.name!r} cannot be silenced: {axis.inexact_because}"
                )
            gone = torch.ones(1, dtype=torch.bool)
        if gone is None:
            continue
        if axis.kind == "expert":
            routers.extend(_routers(structure, axis, gone))
        with torch.no_grad():
            for member in axis.members:
                tensor = tensors[member.parameter]
                where = member.index[gone].reshape(-1).to(tensor.device)
                tensor.index_fill_(member.dim, where, 0)
    return _routed(silent, routers) if routers else silent


@dataclass(frozen=True, eq=False)
class _Router:
    """Results made from ``parameter`` hold the expert scores along ``dim`` (from the end)."""

    parameter: str
    dim: int
    gone: torch.Tensor


def _routers(structure: Structure, axis: Axis, gone: torch.Tensor) -> Iterator[_Router]:
    """Where activations first get a dimension of experts, before any top-k over it."""
    typing, program = structure.typing, structure.program
    assert axis.var is not None
    choices = [i for i in program.instrs if i.op in ("topk", "argmax", "max")]
    chosen = [i for i in choices if _places(structure, i.inputs[0], axis.var)]
    before: set[fx.Node] = set()
    stack = [i.node for i in chosen]
    while stack:
        node = stack.pop()
        if node not in before:
            before.add(node)
            stack.extend(node.all_input_nodes)
    found = False
    for name, holder in program.holders.items():
        if holder not in before or not _places(structure, holder, axis.var):
            continue
        for instr in program.instrs:
            makes = instr.node in before and instr.node in typing.activations
            if makes and _reads(typing.activations, instr.node, holder):
                for dim in _places(structure, instr.node, axis.var):
                    found = True
                    yield _Router(name, dim, gone)
    if not found:
        raise SurgeryError(
            f"the router of axis {axis.name!r} could not be found, so its experts cannot be "
            "silenced in the dense model; compare with the cut graph instead"
        )


def _places(structure: Structure, node: fx.Node, var: Var) -> list[int]:
    """Dimensions of a result that hold exactly the experts, counted from the end."""
    typed = structure.typing.types.get(node)
    if typed is None or isinstance(typed, list):
        return []
    rank = len(typed.dims)
    return [i - rank for i, t in enumerate(typed.dims) if any(v is var for v in leaves(t))]


def _reads(activations: set[fx.Node], node: fx.Node, holder: fx.Node) -> bool:
    """Whether an operator reads a parameter, directly or through a view of it."""
    stack = [n for n in node.all_input_nodes if n not in activations]
    while stack:
        source = stack.pop()
        if source is holder:
            return True
        stack.extend(source.all_input_nodes)
    return False


class _SilentExperts(TorchFunctionMode):
    """Sets the scores of removed experts to minus infinity where the router makes them."""

    def __init__(self, model: torch.nn.Module, routers: list[_Router]) -> None:
        super().__init__()
        tensors: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
        tensors.update(model.named_buffers(remove_duplicate=False))
        # Holding the tensors keeps their ids from being given away during the call.
        self.tracked: dict[int, tuple[torch.Tensor, list[_Router]]] = {}
        for router in routers:
            tensor = tensors[router.parameter]
            self.tracked.setdefault(id(tensor), (tensor, []))[1].append(router)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
        hits = [self.tracked[id(a)] for a in given if id(a) in self.tracked]
        if not hits or not isinstance(result, torch.Tensor) or not result.is_floating_point():
            return result
        routers = hits[0][1]
        if all(id(a) in self.tracked for a in given):  # a view or a cast of the router's weight
            self.tracked[id(result)] = (result, routers)
            return result
        for router in routers:
            if result.dim() >= -router.dim and result.shape[router.dim] == router.gone.numel():
                shape = [1] * result.dim()
                shape[router.dim] = -1
                mask = router.gone.to(result.device).reshape(shape)
                result = result.masked_fill(mask, -torch.inf)
                break
        return result


def _routed(model: torch.nn.Module, routers: list[_Router]) -> torch.nn.Module:
    """Let the forward of ``model`` run with the removed experts silent."""
    base = type(model)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _SilentExperts(self, routers):
            return base.forward(self, *args, **kwargs)

    model.__class__ = type(
        base.__name__, (base,), {"forward": forward, "__module__": base.__module__}
    )
    return model
