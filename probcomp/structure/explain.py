"""Say in words what a dimension is made of and what stands in the way of cutting it."""

from probcomp.errors import InputError, unknown
from probcomp.structure.axes import Axis, Structure
from probcomp.structure.terms import Var, leaves


def explain(structure: Structure, parameter: str, dim: int) -> str:
    """One line for the term, then one for each variable in it.

    Example:
        ``model.layers.0.self_attn.q_proj.weight dim 0 = (2 * 2 * [4 + 4])`` followed by the axes
        behind the four factors.
    """
    program = structure.program
    name = program.aliases.get(parameter, parameter)
    if name not in structure.holder_terms:
        if name in structure.parameters:
            return f"{parameter} is not used by the traced forward pass"
        raise unknown("parameter", parameter, program.aliases)
    dims = structure.holder_terms[name]
    if not -len(dims) <= dim < len(dims):
        raise InputError(f"{parameter} has {len(dims)} dimensions, got dim {dim}")
    term = dims[dim]
    by_var = {axis.var: axis for axis in structure.axes if axis.var is not None}
    lines = [f"{parameter} dim {dim} = {_word(term)}"]
    lines += [f"  {var.size}: {_state(by_var.get(var), var)}" for var in leaves(term)]
    return "\n".join(lines)


def _word(term: object) -> str:
    if isinstance(term, Var):
        return str(term.size)
    parts = [_word(part) for part in term.parts]  # type: ignore[attr-defined]
    if not parts:
        return "1"
    return f"({' * '.join(parts)})" if type(term).__name__ == "Prod" else f"[{' + '.join(parts)}]"


def _state(axis: Axis | None, var: Var) -> str:
    if axis is None:
        reason = next((str(e) for e in var.events if e.kind == "blocked"), "only buffers hold it")
        return f"stays: {reason}"
    if axis.blocked:
        return f"{axis.name} stays: {axis.blocked}"
    places = len(axis.members)
    exact = "zeroing is exact" if axis.exact else f"zeroing is not exact: {axis.inexact_because}"
    return f"{axis.name} ({axis.kind}), {places} parameter slices, {exact}"
