"""The dense model with units switched off: the reference that every cut must equal."""

import contextlib
import copy
from collections.abc import Iterable, Iterator
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
    silent = zeroed(structure, model, keep)
    routers = [
        router
        for axis, gone in _gone(structure, keep)
        if axis.kind == "expert"
        for router in _routers(structure, axis, gone)
    ]
    return _routed(silent, routers) if routers else silent


def zeroed(structure: Structure, model: torch.nn.Module, keep: Keep) -> torch.nn.Module:
    """A deep copy of ``model`` with every member slice of the removed units at zero.

    As `silence`, but routers still give removed experts a score; see `Routers`.
    """
    silent = copy.deepcopy(model)
    tensors: dict[str, torch.Tensor] = dict(silent.named_parameters(remove_duplicate=False))
    tensors.update(silent.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for axis, gone in _gone(structure, keep):
            for member in axis.members:
                tensor = tensors[member.parameter]
                where = member.index[gone].reshape(-1).to(tensor.device)
                tensor.index_fill_(member.dim, where, 0)
    return silent


def _gone(structure: Structure, keep: Keep) -> Iterator[tuple[Axis, torch.Tensor]]:
    """Axes that lose units, and which."""
    kept, layers = structure.resolve(keep)
    for axis in structure.axes:
        if axis.var in kept:
            yield axis, ~kept[axis.var]
        elif axis.name in layers:
            if not axis.exact:
                raise SurgeryError(
                    f"layer {axis.name!r} cannot be silenced: {axis.inexact_because}"
                )
            yield axis, torch.ones(1, dtype=torch.bool)


class Routers:
    """The routers of some axes of experts, found once, so that experts can be silenced for a time.

    Args:
        structure: The traced model.
        axes: Axes of kind ``expert``.

    Attributes:
        parameters: Axis name to the names of the parameters that its scores are made from.

    Raises:
        SurgeryError: The router of one of them is not found.
    """

    def __init__(self, structure: Structure, axes: Iterable[Axis]) -> None:
        self._found = {
            axis.name: tuple(_routers(structure, axis, torch.zeros(axis.size, dtype=torch.bool)))
            for axis in axes
        }
        self.parameters = {
            name: frozenset(router.parameter for router in routers)
            for name, routers in self._found.items()
        }

    @property
    def all_parameters(self) -> frozenset[str]:
        """Those of all axes."""
        return frozenset().union(*self.parameters.values())

    def without(self, model: torch.nn.Module, keep: Keep) -> contextlib.AbstractContextManager[Any]:
        """A context in which ``model`` runs as if some experts had the score minus infinity.

        Only ``model`` itself is concerned: its copies run as they are. It holds for the thread
        that enters it.

        Args:
            model: The traced model, or one with the same parameters.
            keep: Axis name to the experts that stay, boolean [size]; those of other axes stay.
        """
        routers = [
            _Router(router.parameter, router.dim, ~keep[name])
            for name, found in self._found.items()
            if name in keep and not bool(keep[name].all())
            for router in found
        ]
        return _SilentExperts(model, routers) if routers else contextlib.nullcontext()


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
