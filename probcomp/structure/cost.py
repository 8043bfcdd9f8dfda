"""Parameters and multiply-adds as functions of what stays, exact for joint removals.

Every dimension of every tensor is a term, so each product in the model is a monomial in term sizes:
a linear layer costs ``prod(sizes of x) * size(W[0])``. Elementwise work and lookups are not
counted, as is usual for multiply-adds (MACs); a FLOP counter shows twice the number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import fx

from probcomp.structure.axes import Cost, Keep, Structure
from probcomp.structure.branches import replacements
from probcomp.structure.ir import Instr, live_nodes
from probcomp.structure.rules import Typed, Typing
from probcomp.structure.terms import Term, Var, leaves, norm, size, size_after
from probcomp.structure.zeros import plain_name


@dataclass(frozen=True, eq=False)
class Product:
    """``factor * prod(size(term))`` multiply-adds done by one instruction."""

    index: int
    terms: tuple[Term, ...]
    factor: int = 1

    def count(self, kept: Mapping[Var, int]) -> int:
        return self.factor * prod(size_after(term, kept) for term in self.terms)


def products(typing: Typing) -> list[Product]:
    """The matrix products, convolutions and attentions of a program."""
    found: list[Product] = []
    for instr in typing.program.instrs:
        if instr.kind == "op":
            found.extend(Product(instr.index, tuple(t), f) for t, f in _counts(typing, instr))
    return found


def _counts(typing: Typing, instr: Instr) -> list[tuple[list[Term], int]]:
    op, args = plain_name(instr.op), instr.arguments

    def dims(value: object) -> list[Term]:
        typed = typing.types.get(value) if isinstance(value, fx.Node) else None
        return [norm(t) for t in typed.dims] if isinstance(typed, Typed) else []

    out = dims(instr.node)
    if op == "linear":
        return [([*dims(args["input"]), *dims(args["weight"])[:-1]], 1)]
    if op in ("addmm", "addmv"):
        return [([*out, dims(args["mat1" if op == "addmm" else "mat"])[1]], 1)]
    if op == "baddbmm":
        return [([*out, dims(args["batch1"])[-1]], 1)]
    if op in ("matmul", "__matmul__", "mm", "bmm", "mv", "dot", "inner"):
        return [([*out, dims(next(iter(args.values())))[-1]], 1)]
    if op == "einsum":
        return [(_letters(args["equation"], [dims(n) for n in args["tensors"]]), 1)]
    if op == "scaled_dot_product_attention":
        keys = dims(args["key"])[-2]
        return [([*out[:-1], keys, dims(args["query"])[-1]], 1), ([*out, keys], 1)]
    if op.startswith("conv_transpose"):
        return [([*dims(args["input"]), *dims(args["weight"])[1:]], 1)]
    if op.startswith("conv"):
        return [([*out, *dims(args["weight"])[1:]], 1)]
    if op in ("_grouped_mm", "grouped_mm", "grouped_mm_fallback"):
        first, second = list(args.values())[:2]
        return [([dims(first)[0], *dims(second)[1:]], 1)]
    if op in ("lstm", "gru", "rnn_tanh", "rnn_relu") and "params" in args:
        steps = dims(args["input"])[:-1]
        return [([*steps, *dims(w)], 1) for w in args["params"] if len(dims(w)) == 2]
    return []


def _letters(equation: str, words: list[list[Term]]) -> list[Term]:
    """One term for every letter of an einsum (the ellipsis counts as its own letters)."""
    of: dict[str, Term] = {}
    for letters, word in zip(equation.replace(" ", "").partition("->")[0].split(","), words):
        head, _, tail = letters.partition("...")
        middle = len(word) - len(head) - len(tail)
        keys = [*head, *(f"...{middle - i}" for i in range(middle)), *tail]
        for key, term in zip(keys, word):
            if key not in of or size(of[key]) == 1:
                of[key] = term
    return list(of.values())


class Counter:
    """Costs of one structure, with the monomials prepared once."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.products = products(structure.typing)
        terms = structure.holder_terms
        self.holders = {name: terms[name] for name in structure.parameters if name in terms}
        self.idle = sum(
            prod(shape) for name, shape in structure.parameters.items() if name not in terms
        )
        self.by_var: dict[Var, tuple[list[Product], list[tuple[Term, ...]]]] = {}
        for product in self.products:
            for var in {v for t in product.terms for v in leaves(t)}:
                self.by_var.setdefault(var, ([], []))[0].append(product)
        for dims in self.holders.values():
            for var in {v for t in dims for v in leaves(t)}:
                self.by_var.setdefault(var, ([], []))[1].append(dims)

    def total(self, kept: Mapping[Var, int], dead: set[int] | None = None) -> Cost:
        """Cost with ``kept[var]`` units of each variable, without the ``dead`` instructions."""
        dead = dead or set()
        program = self.structure.program
        gone = {name for name, node in program.holders.items() if program.of[node].index in dead}
        params = self.idle + sum(
            prod(size_after(t, kept) for t in dims)
            for name, dims in self.holders.items()
            if name not in gone
        )
        macs = sum(p.count(kept) for p in self.products if p.index not in dead)
        return Cost(float(params), float(macs))

    def marginal(self, var: Var) -> Cost:
        """What one unit of ``var`` costs while everything else stays."""
        macs, holders = self.by_var.get(var, ([], []))
        less = {var: var.size - 1}

        def numel(dims: tuple[Term, ...], kept: Mapping[Var, int]) -> int:
            return prod(size_after(term, kept) for term in dims)

        return Cost(
            float(sum(numel(dims, {}) - numel(dims, less) for dims in holders)),
            float(sum(product.count({}) - product.count(less) for product in macs)),
        )


def unit_costs(structure: Structure) -> dict[str, Cost]:
    """Cost of one unit of every axis: what its removal alone saves."""
    counter = Counter(structure)
    whole = counter.total({})
    costs: dict[str, Cost] = {}
    for axis in structure.axes:
        if axis.var is not None:
            costs[axis.name] = counter.marginal(axis.var)
        else:
            dead = dead_instructions(structure, [axis.name])
            costs[axis.name] = whole - counter.total({}, dead)
    return costs


def total_cost(structure: Structure, keep: Keep | None = None) -> Cost:
    """Cost of the model that keeps what ``keep`` says (see ``Structure.cost``)."""
    kept, layers = structure.resolve(keep or {})
    dead = dead_instructions(structure, layers) if layers else set()
    return Counter(structure).total({var: int(mask.sum()) for var, mask in kept.items()}, dead)


def dead_instructions(structure: Structure, layers: list[str]) -> set[int]:
    """Instructions that nothing needs once these layers are gone."""
    program = structure.program
    instead = replacements(structure.typing, (structure.branches[name] for name in layers))
    live = live_nodes([instr.node for instr in program.instrs], instead)
    return {i.index for i in program.instrs if i.node not in live}
