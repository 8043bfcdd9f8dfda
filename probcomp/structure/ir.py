"""The flat program of a model: one instruction per operator, arguments bound by schema names.

The pre-dispatch graph of ``torch.export`` is used as it is (no decompositions: they specialise
reshapes on strides that real kernels do not return). Sub-graphs of ``no_grad`` regions are inlined,
assertions and other dead nodes removed, and parameters become ``get_attr`` nodes by their name in
``named_parameters`` (the first one, when several names share one tensor).
"""

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from probcomp.errors import TraceError
from probcomp.structure.terms import Site


@dataclass(frozen=True, eq=False)
class Instr:
    """One instruction.

    Attributes:
        index: position in ``Program.instrs``.
        node: its node in ``Program.graph``; arguments refer to other instructions by node.
        kind: ``input``, ``holder`` (parameter, buffer or constant), ``op``, ``getitem`` (one result
            of several), ``symbolic`` (arithmetic on sizes) or ``output``.
        op: operator name without namespace and overload, such as ``view`` or ``copy_``.
        module: path of the module whose code ran the operator ("" is the model itself).
        call: which call of that module (a module may run several times): a key, "" at the top.
        order: this is the ``order``-th instruction of this ``op`` within this module call.
        arguments: schema name -> value, defaults filled in; references are ``fx.Node``.
        value: fake result: a tensor, a list of tensors, or a symbolic integer.
    """

    index: int
    node: fx.Node
    kind: str
    op: str
    module: str
    call: str
    order: int
    arguments: Mapping[str, Any]
    value: Any

    @property
    def site(self) -> Site:
        return Site(self.op, self.module)

    @property
    def inputs(self) -> list[fx.Node]:
        return self.node.all_input_nodes

    @property
    def writes(self) -> bool:
        """Whether the operator writes into one of its arguments."""
        return mutates(self.node)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape at the example inputs (symbolic sizes replaced by their example value)."""
        return shape_of(self.value)


@dataclass(eq=False)
class Program:
    """A model as a list of instructions, with the graph they came from.

    Attributes:
        graph: flat ``fx.Graph``; inputs are placeholders, holders are ``get_attr`` nodes.
        instrs: every node of ``graph`` in order.
        of: instruction of each node.
        holders: canonical name -> node, for parameters, buffers and constants that are read.
        constants: those among ``holders`` that are constants of the code, with their values.
        aliases: every name of every parameter and buffer -> canonical name.
    """

    graph: fx.Graph
    holders: dict[str, fx.Node]
    constants: dict[str, torch.Tensor]
    aliases: dict[str, str]
    instrs: tuple[Instr, ...] = ()
    of: dict[fx.Node, Instr] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.instrs = tuple(_instructions(self.graph))
        self.of = {instr.node: instr for instr in self.instrs}

    @property
    def inputs(self) -> list[Instr]:
        return [i for i in self.instrs if i.kind == "input"]


def hint(n: Any) -> int:
    """A size as a plain integer: the example value of a symbolic one.

    Raises:
        TraceError: the size depends on values, and so has no example.
    """
    if isinstance(n, torch.SymInt):
        if n.node.hint is None:
            raise TraceError(
                "the size of a tensor depends on values, as after torch.where(condition), nonzero "
                "or an index of booleans (experts that are called with the tokens sent to them); "
                "multiply by the condition instead: run each expert on all tokens, weighted by its "
                "gate"
            )
        return int(n.node.hint)
    return int(n)


def shape_of(value: Any) -> tuple[int, ...]:
    """Shape of a fake tensor at the example inputs."""
    return tuple(hint(n) for n in value.shape)


def canonical_names(model: torch.nn.Module) -> dict[str, str]:
    """Every name of every parameter and buffer -> the first name of the same tensor."""
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    for name, tensor in (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ):
        names[name] = first.setdefault(id(tensor), name)
    return names


def flatten(exported: ExportedProgram, model: torch.nn.Module) -> Program:
    """Turn an exported program into a flat `Program`.

    Raises:
        TraceError: when the graph holds control flow, an autocast region or non-tensor state.
    """
    aliases = canonical_names(model)
    graph = fx.Graph()
    env: dict[fx.Node, Any] = {}
    holders: dict[str, fx.Node] = {}
    constants: dict[str, torch.Tensor] = {}
    specs = {s.arg.name: s for s in exported.graph_signature.input_specs}
    for node in exported.graph.nodes:
        if node.op != "placeholder":
            continue
        spec = specs[node.name]
        if spec.kind is InputKind.USER_INPUT:
            if isinstance(node.meta.get("val"), torch.Tensor):
                env[node] = graph.placeholder(node.name)
                env[node].meta = dict(node.meta)
            else:  # a constant argument such as use_cache=False
                env[node] = node.meta.get("val")
            continue
        if spec.kind in (InputKind.TOKEN, InputKind.CUSTOM_OBJ):
            raise TraceError(f"the model holds {spec.target!r}, which is not a tensor; remove it")
        name = aliases.get(spec.target, spec.target)
        if spec.kind is InputKind.CONSTANT_TENSOR:
            name = "_constant_" + spec.target.replace(".", "_")
            constants[name] = exported.constants[spec.target]
        if name not in holders:
            holders[name] = graph.create_node("get_attr", name)
            holders[name].meta = dict(node.meta)
        env[node] = holders[name]
    graph.output(_inline(exported.graph_module, graph, env))
    remove_dead(graph)
    holders = {name: node for name, node in holders.items() if node.users}
    return Program(graph, holders, {n: t for n, t in constants.items() if n in holders}, aliases)


def _inline(module: fx.GraphModule, graph: fx.Graph, env: dict[fx.Node, Any]) -> Any:
    """Copy the nodes of ``module`` into ``graph`` and return its (mapped) output.

    The placeholders of ``module`` are already in ``env``.
    """
    result: Any = None
    for node in module.graph.nodes:
        if node.op == "output":
            result = fx.map_arg(node.args[0], lambda n: env[n])
        elif node.op == "get_attr":
            env[node] = _attribute(module, node.target)
            if not isinstance(env[node], fx.GraphModule):
                raise TraceError(f"the exported graph reads {node.target!r}, which is no parameter")
        elif isinstance(node.target, torch._ops.HigherOrderOperator):
            env[node] = _inline_region(node, graph, env)
        elif node.target is operator.getitem and isinstance(env[node.args[0]], (list, tuple)):
            env[node] = env[node.args[0]][node.args[1]]
        elif node.op != "placeholder":
            env[node] = graph.node_copy(node, lambda n: env[n])
            env[node].meta = dict(node.meta)
    return result


def _inline_region(node: fx.Node, graph: fx.Graph, env: dict[fx.Node, Any]) -> Any:
    """Inline a region wrapped for gradient mode or a disabled autocast."""
    name = str(node.target)
    args: list[Any] = [env[a] if isinstance(a, fx.Node) else a for a in node.args]
    at = next((i for i, a in enumerate(args) if isinstance(a, fx.GraphModule)), None)
    if at is None or name not in ("wrap_with_set_grad_enabled", "wrap_with_autocast"):
        raise TraceError(
            f"the model uses {name}, data-dependent control flow that has no fixed structure; "
            "trace the part of the model without it"
        )
    if name == "wrap_with_autocast" and args[2]:
        raise TraceError("the model switches autocast on inside forward; remove it for tracing")
    body = args[at]
    places = [n for n in body.graph.nodes if n.op == "placeholder"]
    return _inline(body, graph, dict(zip(places, args[at + 1 :])))


def _attribute(module: torch.nn.Module, path: Any) -> Any:
    value: Any = module
    for part in str(path).split("."):
        value = getattr(value, part)
    return value


def remove_dead(graph: fx.Graph) -> None:
    """Drop assertions and everything no output depends on, in-place writes included."""
    nodes = list(graph.nodes)
    live = live_nodes(nodes)
    for node in reversed(nodes):
        if node not in live:
            graph.erase_node(node)


def live_nodes(
    nodes: Sequence[fx.Node], instead: Mapping[fx.Node, fx.Node] | None = None
) -> set[fx.Node]:
    """Nodes the outputs depend on, when each node of ``instead`` is replaced by its value."""
    instead = instead or {}
    depends = dependencies(nodes)
    place = {node: i for i, node in enumerate(nodes)}
    live: set[fx.Node] = set()
    stack = [node for node in nodes if node.op in ("output", "placeholder")]
    while stack:
        node = stack.pop()
        if node in live:
            continue
        live.add(node)
        needs = [instead[node]] if node in instead else (nodes[i] for i in depends[place[node]])
        stack.extend(needs)
    return live


def dependencies(nodes: Sequence[fx.Node]) -> list[set[int]]:
    """For each node, those it reads from; an in-place write is read through every alias."""
    place = {node: i for i, node in enumerate(nodes)}
    root: dict[fx.Node, fx.Node] = {}
    written: dict[fx.Node, list[int]] = {}
    depends: list[set[int]] = []
    for index, node in enumerate(nodes):
        needs = {place[source] for source in node.all_input_nodes}
        for source in node.all_input_nodes:
            needs.update(written.get(root.get(source, source), ()))
        depends.append(needs)
        first = node.args[0] if node.args else None
        if isinstance(first, fx.Node) and _may_alias(node):
            root[node] = root.get(first, first)
            if mutates(node):
                written.setdefault(root[node], []).append(index)
    return depends


def _may_alias(node: fx.Node) -> bool:
    """Whether the result may share memory with the first argument."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return node.target is operator.getitem
    views = ("reshape", "contiguous", "to", "flatten", "expand_as", "view_as", "reshape_as")
    return short_name(node) in views or any(a.alias_info is not None for a in schema.arguments)


def mutates(node: fx.Node) -> bool:
    """Whether the operator writes into one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def short_name(node: fx.Node) -> str:
    """Operator name without namespace and overload."""
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.split("::")[-1]
    return getattr(node.target, "__name__", str(node.target))


def bind(node: fx.Node) -> dict[str, Any]:
    """Arguments of ``node`` by schema name, defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {**{str(i): a for i, a in enumerate(node.args)}, **node.kwargs}
    bound: dict[str, Any] = {}
    for i, argument in enumerate(schema.arguments):
        if i < len(node.args):
            bound[argument.name] = node.args[i]
        elif argument.name in node.kwargs:
            bound[argument.name] = node.kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value
    return bound


def _kind(node: fx.Node) -> str:
    fixed = {"placeholder": "input", "get_attr": "holder", "output": "output"}
    if node.op in fixed:
        return fixed[node.op]
    if node.target is operator.getitem:
        return "getitem"
    value = node.meta.get("val")
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    if isinstance(first, torch.Tensor) or (first is None and mutates(node)):
        return "op"
    return "symbolic"


def _instructions(graph: fx.Graph) -> Iterator[Instr]:
    counts: Counter[tuple[str, str]] = Counter()
    for index, node in enumerate(graph.nodes):
        kind = _kind(node)
        stack = node.meta.get("nn_module_stack") or {}
        call, (module, _) = list(stack.items())[-1] if stack else ("", ("", None))
        op = kind if kind in ("input", "holder", "output") else short_name(node)
        order = counts[call, op]
        counts[call, op] += 1
        yield Instr(
            index=index,
            node=node,
            kind=kind,
            op=op,
            module=module,
            call=call,
            order=order,
            arguments={} if kind in ("input", "holder", "output") else bind(node),
            value=node.meta.get("val"),
        )
