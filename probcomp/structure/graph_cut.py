"""Cut the exported graph: always possible, exact by construction, any pattern of survivors.

Parameters are sliced, and every literal size in the graph becomes the size of its term after the
cut. The result is an ordinary ``GraphModule`` that runs, trains and exports; it has no key-value
cache and no configuration (real-module surgery keeps those where it can).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import fx

from probcomp.errors import InputError, SurgeryError
from probcomp.structure.axes import Keep, Structure
from probcomp.structure.branches import replacements
from probcomp.structure.export import Leaf, Record
from probcomp.structure.ir import Instr, remove_dead
from probcomp.structure.terms import Term, Var, leaves, removed, size, size_after


@dataclass(frozen=True, eq=False)
class Cut:
    """A checked removal.

    Attributes:
        kept: variable -> boolean vector of the units that stay.
        layers: names of the layers that go.
    """

    kept: Mapping[Var, torch.Tensor]
    layers: tuple[str, ...]

    @property
    def counts(self) -> dict[Var, int]:
        return {var: int(mask.sum()) for var, mask in self.kept.items()}

    @property
    def gone(self) -> dict[Var, torch.Tensor]:
        return {var: ~mask for var, mask in self.kept.items()}

    def touches(self, term: Term) -> bool:
        """Whether the term loses positions."""
        return any(var in self.kept for var in leaves(term))

    def survivors(self, term: Term) -> torch.Tensor:
        """Positions of ``term`` that stay, ascending."""
        return (~removed(term, self.gone)).nonzero()[:, 0]


def make_cut(structure: Structure, keep: Keep) -> Cut:
    """Check ``keep`` against the structure (see ``Structure.resolve`` for what is refused)."""
    kept, layers = structure.resolve(keep)
    return Cut(kept, tuple(layers))


def new_arguments(structure: Structure, keep: Keep) -> dict[int, dict[str, Any]]:
    """Arguments that change: instruction index -> schema name -> new value.

    Lists hold the old value where it does not change (a symbolic size or -1). ``chunk`` and
    ``split`` give ``split_sizes``, the list of new sizes, as they may no longer be equal.
    """
    return _arguments(structure, make_cut(structure, keep))


def _arguments(structure: Structure, cut: Cut) -> dict[int, dict[str, Any]]:
    changed: dict[int, dict[str, Any]] = {}
    counts = cut.counts
    for index, terms in structure.argument_terms.items():
        instr = structure.program.instrs[index]
        if instr.op in ("slice", "narrow"):
            new = _bounds(structure, instr, terms, cut)
        else:
            new = {
                name: _value(instr.arguments[name], term, cut, counts)
                for name, term in terms.items()
                if any(cut.touches(t) for t in (term if isinstance(term, tuple) else (term,)))
            }
            if instr.op in ("view", "reshape"):
                new = {name: _left_open(value, terms[name], cut) for name, value in new.items()}
        if new:
            changed[index] = _renamed(instr, new)
    for instr in structure.program.instrs:
        if instr.op == "scaled_dot_product_attention" and instr.arguments["scale"] is None:
            query = structure.typing.types[instr.arguments["query"]]
            width = query.dims[-1]  # type: ignore[union-attr]
            if cut.touches(width):  # the default would follow the new width
                changed.setdefault(instr.index, {})["scale"] = 1.0 / sqrt(size(width))
    return changed


def _bounds(
    structure: Structure, instr: Instr, terms: Mapping[str, Any], cut: Cut
) -> dict[str, Any]:
    """Bounds of a slice, all of them as soon as anything moves: some count from the end."""
    source = structure.typing.types[instr.arguments["self"]]
    dims = source.dims  # type: ignore[union-attr]
    if not cut.touches(dims[instr.arguments["dim"] % len(dims)]):
        return {}
    return {name: size_after(term, cut.counts) for name, term in terms.items()}


def _value(old: Any, term: Term | tuple[Term, ...], cut: Cut, counts: dict[Var, int]) -> Any:
    """New value of an argument; what is no literal follows the tensors by itself."""
    if isinstance(term, tuple):
        if not isinstance(old, (list, tuple)) or len(old) != len(term):
            return [size_after(t, counts) for t in term]  # one number for all pieces of a split
        return [_value(o, t, cut, counts) for o, t in zip(old, term)]
    if isinstance(old, fx.Node) or old == -1 or not cut.touches(term):
        return old
    return size_after(term, counts)


def _left_open(sizes: list[Any], terms: Any, cut: Cut) -> list[Any]:
    """A shape whose one computed size (batch times heads, which layers may share) is left open."""
    computed = [
        place
        for place, (value, term) in enumerate(zip(sizes, terms, strict=True))
        if isinstance(value, fx.Node) and cut.touches(term)
    ]
    if len(computed) != 1 or -1 in sizes:
        return sizes
    return [-1 if place in computed else value for place, value in enumerate(sizes)]


def _renamed(instr: Instr, new: dict[str, Any]) -> dict[str, Any]:
    for name in ("chunks", "split_size"):
        if name in new:
            new["split_sizes"] = new.pop(name)
    if (
        instr.op == "histc"
        and "bins" in new
        and instr.arguments["max"] == instr.arguments["bins"] - 1
    ):
        new["max"] = new["bins"] - 1
    return new


def cut_graph(structure: Structure, model: torch.nn.Module, keep: Keep) -> fx.GraphModule:
    """A graph module of ``model`` without the units and layers that ``keep`` drops.

    It takes the same arguments as the traced call (by position or by name), on other batch and
    sequence sizes too when ``structure.dynamic``, and returns the same result object. Weights are
    copies. It is fixed to evaluation mode.

    Args:
        structure: from `trace` of this model.
        model: the dense model, in its trained state.
        keep: axis name -> boolean [size], true where the unit stays.

    Raises:
        InputError: when ``keep`` names unknown axes or has wrong sizes.
        SurgeryError: when a blocked axis would be cut, too few units would stay, or the model is
            not the traced one.
    """
    cut = make_cut(structure, keep)
    attributes = _sliced(structure, model, cut)
    graph = fx.Graph()
    copy = _Copy(structure, cut, graph, attributes)
    for instr in structure.program.instrs:
        copy.add(instr)
    remove_dead(graph)
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    module = fx.GraphModule({k: v for k, v in attributes.items() if k in read}, graph)
    return module.eval()


def _sliced(structure: Structure, model: torch.nn.Module, cut: Cut) -> dict[str, torch.Tensor]:
    """Copies of every parameter, buffer and constant, without the removed positions."""
    program = structure.program
    state: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    state.update(model.named_buffers(remove_duplicate=False))
    state.update(program.constants)
    found: dict[str, torch.Tensor] = {}
    for name, node in program.holders.items():
        tensor = state.get(name)
        shape = tuple(node.meta["val"].shape)
        if tensor is None or tuple(tensor.shape) != shape:
            got = "nothing" if tensor is None else list(tensor.shape)
            raise SurgeryError(
                f"the model is not the traced one: {name} is {got}, expected {list(shape)}; "
                "trace the model you cut"
            )
        value = tensor.detach()
        for dim, term in enumerate(structure.holder_terms[name]):
            if cut.touches(term):
                value = value.index_select(dim, cut.survivors(term).to(value.device))
        value = value.clone() if value.data_ptr() == tensor.data_ptr() else value
        if isinstance(tensor, torch.nn.Parameter):
            found[name] = torch.nn.Parameter(value, requires_grad=tensor.requires_grad)
        else:
            found[name] = value
    return found


def fixed_size(size: int | torch.SymInt) -> int | None:
    """A size as a number, or ``None`` where it is free.

    A symbol that the model's own Python turned into a number (padding computed from an extent)
    is still a `SymInt`, and is as fixed as any literal.
    """
    return size if isinstance(size, int) else size.node.maybe_as_int()


def expect_shape(tensor: torch.Tensor, sizes: Sequence[int | None], name: str) -> torch.Tensor:
    """Return ``tensor`` when its sizes are those the graph was made for (None: any size)."""
    fits = len(sizes) == tensor.ndim and all(
        want is None or want == got for want, got in zip(sizes, tensor.shape)
    )
    if not fits:
        wanted = ["any" if n is None else n for n in sizes]
        raise InputError(
            f"{name} has shape {list(tensor.shape)}, the graph was traced for {wanted}; "
            "trace the model again with inputs of this size"
        )
    return tensor


class _Copy:
    """Copies instructions into a new graph, with new arguments where sizes changed."""

    def __init__(
        self, structure: Structure, cut: Cut, graph: fx.Graph, attributes: dict[str, torch.Tensor]
    ) -> None:
        self.structure = structure
        self.cut = cut
        self.graph = graph
        self.attributes = attributes
        self.env: dict[fx.Node, fx.Node] = {}
        self.changed = _arguments(structure, cut)
        self.writes = any(instr.writes for instr in structure.program.instrs)
        branches = (structure.branches[name] for name in cut.layers)
        self.instead = replacements(structure.typing, branches)

    def add(self, instr: Instr) -> None:
        node = instr.node
        if instr.kind == "output":
            outputs: Any = node.args[0]
            self.graph.output(self._result(self.structure.layout, [self.env[n] for n in outputs]))
            return
        if node in self.instead:
            left = self.env[self.instead[node]]
            # A later in-place write must not reach values that others read under the old name.
            self.env[node] = (
                self.graph.call_function(torch.ops.aten.clone.default, (left,))
                if self.writes
                else left
            )
            return
        copy = self.graph.node_copy(node, lambda n: self.env[n])
        self.env[node] = self._checked(instr, copy) if instr.kind == "input" else copy
        new = self.changed.get(instr.index)
        if new is not None:
            _patch(copy, instr, {k: _mapped(v, self.env) for k, v in new.items()})
        if instr.index in self.structure.typing.picks:
            self.env[node] = self._pick(instr, copy)
        elif instr.op == "squeeze" and "dim" not in instr.arguments:
            self._squeeze(instr, copy)

    def _checked(self, instr: Instr, node: fx.Node) -> fx.Node:
        """Sizes that the export fixed are checked: literals of the graph may depend on them."""
        sizes = [fixed_size(n) for n in instr.value.shape]
        return self.graph.call_function(expect_shape, (node, sizes, node.name))

    def _pick(self, instr: Instr, node: fx.Node) -> fx.Node:
        """The result keeps its dense numbering: make all of it, then pick the survivors."""
        dim = self.structure.typing.picks[instr.index]
        dims: Any = self.structure.types[instr.index]
        term = dims[dim]
        if not self.cut.touches(term):
            return node
        survivors = self.cut.survivors(term)
        if instr.op != "scaled_dot_product_attention":
            return self._select(node, dim, survivors, instr)
        # Each query head left gets its own copy of the key head that serves it.
        keys = self.structure.program.of[instr.arguments["key"]].shape[dim]
        for place in (1, 2):
            source: Any = node.args[place]
            with self.graph.inserting_before(node):
                serving = survivors // (size(term) // keys)
                node.update_arg(place, self._select(source, dim, serving, instr))
        node.update_kwarg("enable_gqa", False)
        return node

    def _select(self, node: fx.Node, dim: int, positions: torch.Tensor, instr: Instr) -> fx.Node:
        name = f"_survivors_{instr.index}"
        self.attributes[name] = positions.to(instr.value.device)
        index = self.graph.get_attr(name)
        return self.graph.call_function(torch.ops.aten.index_select.default, (node, dim, index))

    def _squeeze(self, instr: Instr, node: fx.Node) -> None:
        """A width that became 1 is not to be squeezed away: name the dimensions that were 1."""
        source = self.structure.program.of[instr.node.args[0]]  # type: ignore[index]
        ones = [i for i, n in enumerate(source.shape) if n == 1]
        node.target = torch.ops.aten.squeeze.dims
        node.args = (node.args[0], ones)

    def _result(self, layout: Any, values: list[fx.Node]) -> Any:
        """Put the outputs together as the model's forward did."""
        if isinstance(layout, Leaf):
            return values[layout.index]
        if isinstance(layout, Record):
            fields = {name: self._result(v, values) for name, v in layout.fields.items()}
            return self.graph.call_function(layout.cls, kwargs=fields)
        if isinstance(layout, dict):
            return {name: self._result(v, values) for name, v in layout.items()}
        if isinstance(layout, (list, tuple)):
            return type(layout)(self._result(v, values) for v in layout)
        return layout


def _mapped(value: Any, env: Mapping[fx.Node, fx.Node]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_mapped(v, env) for v in value]
    return env[value] if isinstance(value, fx.Node) else value


def _patch(node: fx.Node, instr: Instr, new: dict[str, Any]) -> None:
    """Set arguments by schema name; unequal pieces need ``split_with_sizes``."""
    if "split_sizes" in new and instr.op != "split_with_sizes":
        node.target = torch.ops.aten.split_with_sizes.default
        node.args = (node.args[0], new["split_sizes"], instr.arguments["dim"])
        node.kwargs = {}
        return
    schema = instr.node.target._schema  # type: ignore[union-attr]
    for place, argument in enumerate(schema.arguments):
        if argument.name not in new:
            continue
        if place < len(node.args):
            node.update_arg(place, new[argument.name])
        else:
            node.update_kwarg(argument.name, new[argument.name])
