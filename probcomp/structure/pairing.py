"""Operator calls of a watched forward pass, matched with the instructions of the typed program.

Export runs the same Python code in the same order, so the k-th call of an operator inside a module
is the k-th instruction of that operator there. The program knows which size every integer argument
is; the call knows which expression it came from. Together they make the equations of
`probcomp.structure.equations`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from probcomp.structure.axes import Structure
from probcomp.structure.equations import Equation
from probcomp.structure.ir import Instr, hint
from probcomp.structure.provenance import Call, expression_of
from probcomp.structure.terms import Var, size, size_after

# Function name -> (position of the first size, schema argument). Sizes may come as one sequence
# or spread over the remaining positions.
_SIZES: dict[str, tuple[int, str]] = {
    "view": (1, "size"),
    "reshape": (1, "shape"),
    "expand": (1, "size"),
    "broadcast_to": (1, "size"),
    "repeat": (1, "repeats"),
    "tile": (1, "dims"),
    "unflatten": (2, "sizes"),
    "zeros": (0, "size"),
    "ones": (0, "size"),
    "empty": (0, "size"),
    "rand": (0, "size"),
    "full": (0, "size"),
    "new_zeros": (1, "size"),
    "new_ones": (1, "size"),
    "new_empty": (1, "size"),
    "new_full": (1, "size"),
    "split": (1, "split_size"),
    "split_with_sizes": (1, "split_sizes"),
    "layer_norm": (1, "normalized_shape"),
    "rms_norm": (1, "normalized_shape"),
}
# Function name -> (position, keyword, schema argument) of a single size.
_SCALARS: dict[str, tuple[int, str, str]] = {
    "chunk": (1, "chunks", "chunks"),
    "group_norm": (1, "num_groups", "num_groups"),
    "conv1d": (6, "groups", "groups"),
    "conv2d": (6, "groups", "groups"),
    "conv3d": (6, "groups", "groups"),
    "conv_transpose1d": (6, "groups", "groups"),
    "conv_transpose2d": (6, "groups", "groups"),
    "conv_transpose3d": (6, "groups", "groups"),
    "histc": (1, "bins", "bins"),
    "one_hot": (1, "num_classes", "num_classes"),
    "channel_shuffle": (1, "groups", "groups"),
    "pixel_shuffle": (1, "upscale_factor", "upscale_factor"),
    "repeat_interleave": (1, "repeats", "repeats"),
}
# The exporter's name for an operator, where it differs from the function's.
_SAME = {
    "_unsafe_view": "view",
    "unsafe_split": "split",
    "split_with_sizes": "split",
    "expand_copy": "expand",
}
WATCHED = frozenset({*_SIZES, *_SCALARS, "arange", "narrow", "__getitem__", "split"})


@dataclass(frozen=True)
class _Sized:
    """One watched call in the exporter's terms: integers by schema argument."""

    module: str
    op: str
    integers: Mapping[str, Any]
    outputs: tuple[tuple[int, ...], ...]


def _sequence(args: Sequence[Any], at: int) -> list[Any]:
    if len(args) <= at:
        return []
    return list(args[at]) if isinstance(args[at], tuple | list) else list(args[at:])


def _sized(call: Call) -> Iterator[_Sized]:
    op = call.op
    if op == "__getitem__":
        yield from _slices(call)
        return
    integers: dict[str, Any] = {}
    if op == "split":
        sizes = call.args[1] if len(call.args) > 1 else call.kwargs.get("split_size_or_sections")
        integers["split_sizes" if isinstance(sizes, tuple | list) else "split_size"] = sizes
    elif op == "arange":
        numbers = [a for a in call.args if a is not None]
        if len(numbers) == 1:
            integers["end"] = numbers[0]
    elif op == "narrow":
        for at, name in ((2, "start"), (3, "length")):
            integers[name] = call.args[at] if len(call.args) > at else call.kwargs.get(name)
    elif op in _SIZES:
        at, name = _SIZES[op]
        given = call.kwargs.get(name, call.kwargs.get("size"))
        integers[name] = _sequence(call.args, at) if given is None else list(given)
    else:
        at, keyword, name = _SCALARS[op]
        integers[name] = call.args[at] if len(call.args) > at else call.kwargs.get(keyword)
    yield _Sized(call.module, _SAME.get(op, op), integers, call.outputs)


def _slices(call: Call) -> Iterator[_Sized]:
    """Plain slicing gives one ``slice`` instruction per slice that is not the whole dimension."""
    if not call.inputs:
        return
    shape = call.inputs[0]
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    if any(isinstance(i, list) for i in index):
        return
    explicit = sum(1 for i in index if i is not None and i is not Ellipsis)
    dim = 0
    for item in index:
        if item is Ellipsis:
            dim += len(shape) - explicit
        elif isinstance(item, slice):
            n = shape[dim]
            if item.indices(n) != (0, n, 1):
                ends = {"start": item.start, "end": item.stop}
                yield _Sized(call.module, "slice", ends, (item.indices(n), (n,)))
            dim += 1
        elif item is not None:
            dim += 1


def _signature(instr: Instr) -> tuple[Any, ...]:
    if instr.op == "slice":
        source = instr.arguments["self"]
        dim = instr.arguments["dim"] or 0
        n = hint(source.meta["val"].shape[dim])
        start, end = instr.arguments["start"], instr.arguments["end"]
        ends = [None if e is None else hint(_value(e)) for e in (start, end)]
        step = hint(_value(instr.arguments["step"] or 1))
        return (slice(ends[0], ends[1], step).indices(n), (n,))
    results = instr.value if isinstance(instr.value, tuple | list) else (instr.value,)
    return tuple(tuple(map(hint, r.shape)) for r in results)


def _value(argument: Any) -> Any:
    return argument.meta["val"] if hasattr(argument, "meta") else argument


def pair(structure: Structure, calls: Sequence[Call]) -> list[tuple[_Sized, Instr]]:
    """Watched calls with their instructions: same operator, same module, same order.

    Export runs the same Python code in the same order; where it took another path, the longest
    common run of result shapes is paired and the rest left to the comparison of outputs.
    """
    ours: dict[tuple[str, str], list[_Sized]] = defaultdict(list)
    for call in calls:
        for sized in _sized(call):
            ours[sized.module, sized.op].append(sized)
    theirs: dict[tuple[str, str], list[Instr]] = defaultdict(list)
    for instr in structure.typing.program.instrs:
        if instr.kind == "op":
            op = _SAME.get(instr.op, instr.op)
            if op == "slice" and _signature(instr)[0] == (0, _signature(instr)[1][0], 1):
                continue
            theirs[instr.module.split("@")[0], op].append(instr)
    pairs: list[tuple[_Sized, Instr]] = []
    for key, mine in ours.items():
        other = theirs.get(key, [])
        a, b = [s.outputs for s in mine], [_signature(i) for i in other]
        if a == b:
            pairs.extend(zip(mine, other))
            continue
        for block in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
            run = slice(block.a, block.a + block.size), slice(block.b, block.b + block.size)
            pairs.extend(zip(mine[run[0]], other[run[1]]))
    return pairs


def equations(
    structure: Structure, calls: Sequence[Call], kept: Mapping[Var, int]
) -> list[Equation]:
    """One equation per integer that reached a paired call."""
    found: dict[Equation, None] = {}
    for sized, instr in pair(structure, calls):
        wanted = structure.typing.arguments.get(instr.index, {})
        for name, given in sized.integers.items():
            if name not in wanted or given is None:
                continue
            terms = wanted[name]
            given = list(given) if isinstance(given, tuple | list) else [given]
            terms = terms if isinstance(terms, tuple) else (terms,)
            if name == "split_size":  # one number for all pieces but the last
                given, terms = given * (len(terms) - 1), terms[:-1]
            if len(given) != len(terms):
                continue
            for integer, term in zip(given, terms):
                equation = _equation(integer, term, kept, str(instr.site))
                if equation is not None:
                    found[equation] = None
    return list(found)


def _equation(integer: Any, term: Any, kept: Mapping[Var, int], site: str) -> Equation | None:
    if not isinstance(integer, int) or isinstance(integer, bool) or term is None:
        return None
    old, new = size(term), size_after(term, kept)
    if integer == -1 or int(integer) != old:  # inferred, or counted from the end
        return None
    return Equation(expression_of(integer), new, old, site)
