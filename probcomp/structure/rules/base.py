"""The frame of the rules: typed results, the view a rule has of its operator, and the pass."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from probcomp.structure.ir import Instr, Program, hint, shape_of
from probcomp.structure.terms import (
    ONE,
    Event,
    Prod,
    RadixError,
    Site,
    Sum,
    Term,
    Var,
    block,
    fresh,
    is_blocked,
    mark,
    norm,
    size,
    unify,
)


@dataclass(frozen=True)
class Typed:
    """Terms of the dimensions of a tensor.

    ``points`` is the term whose positions the VALUES of an integer tensor number (the expert ids
    that a top-k returns), when there is one.
    """

    dims: tuple[Term, ...]
    points: Term | None = None


Result = Typed | Sequence[Term] | Sequence[Typed] | None
Rule = Callable[["Op"], Result]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a rule under the short names of its operators (in-place forms are found by theirs)."""

    def enter(function: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise ValueError(f"two rules for operator {name!r}")
            RULES[name] = function
        return function

    return enter


@dataclass(frozen=True)
class Minimum:
    """At least ``count`` positions of ``term`` must stay (a top-k over them)."""

    term: Term
    count: int
    site: Site


@dataclass(frozen=True)
class Attention:
    """A product of two activations: batch dimensions, the contracted one, the value one."""

    batch: tuple[Term, ...]
    contracted: tuple[Term, ...]
    value: tuple[Term, ...]
    site: Site


@dataclass
class Typing:
    """Everything the rules find out about a program.

    ``picks`` names the operators that are run in the dense size, after which the survivors are
    picked along one dimension: instruction index -> dimension (from the end).
    """

    program: Program
    group_heads: bool = True
    types: dict[fx.Node, Typed | list[Typed]] = field(default_factory=dict)
    arguments: dict[int, dict[str, Term | tuple[Term, ...]]] = field(default_factory=dict)
    minima: list[Minimum] = field(default_factory=list)
    attention: list[Attention] = field(default_factory=list)
    activations: set[fx.Node] = field(default_factory=set)
    picks: dict[int, int] = field(default_factory=dict)
    never_zero: set[tuple[fx.Node, Term]] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)

    def run(self) -> "Typing":
        """Type every instruction in order."""
        for instr in self.program.instrs:
            if instr.kind == "input" or any(n in self.activations for n in instr.inputs):
                self.activations.add(instr.node)
            if instr.kind == "input":
                self.types[instr.node] = self._boundary(instr, "it is an input dimension")
            elif instr.kind == "holder":
                self.types[instr.node] = Typed(tuple(fresh(n) for n in instr.shape))
            elif instr.kind == "getitem":
                source: Any = instr.node.args[0]
                i: Any = instr.node.args[1]
                several = self.types.get(source)
                if isinstance(several, list):
                    self.types[instr.node] = several[i]
            elif instr.kind == "output":
                for node in instr.inputs:
                    typed = self.types.get(node)
                    if isinstance(typed, Typed):
                        for term in typed.dims:
                            block(term, instr.site, "it is an output dimension")
            elif instr.kind == "op":
                self.types[instr.node] = _apply(Op(self, instr))
        for product in self.attention:
            if not all(map(is_blocked, product.batch)):
                for kind, terms in (
                    ("attn_batch", product.batch),
                    ("attn_contract", product.contracted),
                    ("attn_value", product.value),
                ):
                    for term in terms:
                        mark(term, Event(kind, product.site))
        return self

    def _boundary(self, instr: Instr, why: str) -> Typed:
        event = Event("blocked", instr.site, why)
        return Typed(tuple(fresh(n, event) for n in instr.shape))


class Op:
    """One operator as its rule sees it: arguments by schema name, terms of tensors, events."""

    def __init__(self, typing: Typing, instr: Instr) -> None:
        self.typing = typing
        self.instr = instr
        self.site = instr.site
        self.sizes: dict[str, Term | tuple[Term, ...]] = {}

    def __getitem__(self, name: str) -> Any:
        return self.instr.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Argument ``name``, or ``default`` where the overload lacks it."""
        return self.instr.arguments.get(name, default)

    def has(self, name: str) -> bool:
        """Whether argument ``name`` is a tensor."""
        return self.typed(self.get(name)) is not None

    def typed(self, value: Any) -> Typed | None:
        """The type of an argument value; None for what is no tensor."""
        if not isinstance(value, fx.Node):
            return None
        typed = self.typing.types.get(value)
        return typed if isinstance(typed, Typed) else None

    def dims(self, name: str) -> list[Term]:
        """Terms of the dimensions of tensor argument ``name``, in normal form."""
        typed = self.typed(self[name])
        if typed is None:
            raise RadixError(f"argument {name} is no tensor")
        return [norm(term) for term in typed.dims]

    def points(self, name: str) -> Term | None:
        """What the values of tensor argument ``name`` number."""
        typed = self.typed(self[name])
        return typed.points if typed else None

    def number(self, name: str, default: int | None = None) -> int:
        """Integer argument ``name`` (a symbolic size gives its example value)."""
        return self.integer(self.get(name, default))

    def integer(self, value: Any) -> int:
        """``value`` as an integer."""
        if isinstance(value, fx.Node):
            value = value.meta["val"]
        return hint(value)

    def is_activation(self, name: str) -> bool:
        """Whether argument ``name`` depends on the model's inputs."""
        return self[name] in self.typing.activations

    @property
    def shape(self) -> tuple[int, ...]:
        return self.instr.shape

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of several results."""
        return [shape_of(v) for v in self.instr.value]

    def tensors(self) -> list[Typed]:
        """Types of all tensor arguments, also those inside lists."""
        found = [self.typed(node) for node in self.instr.inputs]
        return [typed for typed in found if typed is not None]

    # What a rule can say ------------------------------------------------------------------------

    def unify(self, a: Term, b: Term) -> None:
        unify(a, b, self.site)

    def join(self, *words: Sequence[Term]) -> list[Term]:
        """Broadcast: right-align dimension lists and unify everything that is not 1."""
        rank = max(map(len, words), default=0)
        joined: list[Term] = [ONE] * rank
        for word in words:
            for i, term in enumerate(word, rank - len(word)):
                if size(term) == 1:
                    continue
                if size(joined[i]) == 1:
                    joined[i] = term
                else:
                    self.unify(joined[i], term)
        return joined

    def same(self, a: Iterable[Term], b: Iterable[Term]) -> None:
        """Unify two dimension lists of equal length pairwise."""
        for s, t in zip(a, b, strict=True):
            self.unify(s, t)

    def block(self, term: Term, why: str) -> Term:
        block(term, self.site, why)
        return term

    def blocked(self, n: int, why: str) -> Term:
        """A new dimension that can never be cut."""
        return fresh(n, Event("blocked", self.site, why))

    def mark(self, term: Term, kind: str, detail: str = "") -> None:
        mark(term, Event(kind, self.site, detail))

    def statistic(self, term: Term, what: str) -> None:
        """Say that the operator computes ``what`` over ``term``, so zeros count."""
        self.mark(term, "stat", what)

    def pick(self, dim: int) -> None:
        """Say that the result is made in the dense size, then cut along ``dim``."""
        self.typing.picks[self.instr.index] = dim

    def single_heads(self, dim: int, term: Term) -> Term:
        """With ``group_heads`` off, a key head repeated for its queries becomes as many heads.

        ``term`` is the product of key heads and their copies; the copies get a variable of their
        own, so that any of them can go while the key heads stay.
        """
        words = norm(term)
        if self.typing.group_heads or not isinstance(words, Prod):
            return term
        copies = words.parts[-1]
        repeated = isinstance(copies, Var) and any(e.kind == "expanded" for e in copies.events)
        if not repeated or is_blocked(words):
            return term
        self.block(words, "query heads are cut one by one, so their key heads stay")
        self.pick(dim)
        return fresh(size(words))

    def argument(self, name: str, terms: Term | Sequence[Term]) -> None:
        """Say that integer argument ``name`` is the size of ``terms``."""
        self.sizes[name] = terms if isinstance(terms, (Var, Prod, Sum)) else tuple(terms)

    def axis(self, name: str = "dim", rank: int | None = None, of: str = "self") -> int:
        """Dimension argument ``name``, made non-negative."""
        rank = len(self.dims(of)) if rank is None else rank
        return self.integer(self[name]) % max(rank, 1)


def find_rule(op: str) -> Rule | None:
    """The rule of an operator; the in-place form ``add_`` follows ``add``."""
    if op in RULES:
        return RULES[op]
    return RULES.get(op[:-1]) if op.endswith("_") and not op.endswith("__") else None


def _apply(op: Op) -> Typed | list[Typed]:
    from probcomp.structure.rules.elementwise import pointwise

    function = find_rule(op.instr.op)
    if function is None and torch.Tag.pointwise in getattr(op.instr.node.target, "tags", ()):
        function = pointwise
    if function is None:
        op.typing.unknown.add(op.instr.op)
        return _give_up(op, f"operator {op.instr.op} has no rule")
    try:
        result = _check(op, function(op))
    except RadixError as error:
        return _give_up(op, f"the dimensions cannot be matched: {error}")
    if op.sizes:
        op.typing.arguments[op.instr.index] = op.sizes
    return result


def _check(op: Op, result: Result) -> Typed | list[Typed]:
    """Bring a rule's answer into shape, and refuse one that contradicts the real sizes."""
    several = isinstance(op.instr.value, (list, tuple))
    given: Any = [] if result is None else result
    given = given if several else [given]
    answers = [r if isinstance(r, Typed) else Typed(tuple(r)) for r in given]
    if several:
        shapes = op.shapes
    else:
        shapes = [op.shape] if isinstance(op.instr.value, torch.Tensor) else [()]
    for typed, shape in zip(answers, shapes):
        if tuple(size(t) for t in typed.dims) != shape:
            raise RadixError(f"rule found {[size(t) for t in typed.dims]}, shape is {list(shape)}")
    if len(answers) != len(shapes):
        raise RadixError(f"rule found {len(answers)} results of {len(shapes)}")
    return answers if several else answers[0]


def _give_up(op: Op, why: str) -> Typed | list[Typed]:
    """Block everything the operator touches: sound, and never silent."""
    for typed in op.tensors():
        for term in typed.dims:
            op.block(term, why)
        if typed.points is not None:
            op.block(typed.points, why)
    if isinstance(op.instr.value, (list, tuple)):
        return [
            Typed(tuple(op.blocked(n, why) for n in shape_of(v)))
            for v in op.instr.value
            if isinstance(v, torch.Tensor)
        ]
    if not isinstance(op.instr.value, torch.Tensor):
        return Typed(())
    return Typed(tuple(op.blocked(n, why) for n in op.shape))
