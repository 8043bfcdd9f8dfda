"""Provenance of integers, the attribute solver, and the surgery on real modules."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from probcomp.errors import SurgeryError
from probcomp.structure import silence, trace
from probcomp.structure.equations import Equation, solve
from probcomp.structure.gate import difference, run, two_sizes
from probcomp.structure.module_cut import cut_module, edits_for, shared_copy, watch
from probcomp.structure.provenance import (
    Dim,
    Op,
    Slot,
    TracedInt,
    assign,
    expression_of,
    instrument,
    values,
)

from . import nets
from .zoo_holdout import ZOO

A, B = Slot("m", ("a",)), Slot("m", ("b",))


def stay(old: int) -> frozenset[int]:
    return frozenset((old,))


@given(st.integers(2, 50), st.integers(2, 50), st.integers(2, 9), st.integers(2, 50))
def test_a_traced_integer_computes_as_the_integer_and_replays(a, b, n, new):
    def formula(x, y):
        return (x * n + y - 3) // n + x % n - n * y

    traced = formula(TracedInt(a, A), TracedInt(b, B))
    assert traced == formula(a, b)
    replayed = values(expression_of(traced), {A: new, B: b}, stay)
    assert replayed == {formula(new, b)}


def test_instrumenting_changes_no_output_and_covers_private_configurations():
    model = ZOO["phi3"].model()
    inputs = ZOO["phi3"].example()
    probe = shared_copy(model)
    slots = instrument(probe)
    steps = {slot.steps for slot in slots}
    assert ("config", "num_attention_heads") in steps
    assert all(torch.equal(a, b) for a, b in zip(run(probe, inputs), run(model, inputs)))
    assert type(model.config.num_attention_heads) is int
    configs = [m.config for m in probe.modules() if hasattr(m, "config")]
    assert len({id(c) for c in configs}) == len(configs)


def test_watching_sees_the_attribute_behind_a_size():
    model = nets.OneAttribute()
    probe = shared_copy(model)
    instrument(probe)
    calls = watch(probe, (torch.randn(2, 7, 20),))
    views = [c for c in calls if c.op == "view"]
    assert len(views) == 3
    assert expression_of(views[0].args[3]) == Slot("", ("heads",))
    merged = next(c for c in calls if c.op == "reshape")
    product = Op("*", Slot("", ("heads",)), Slot("", ("head_size",)))
    assert expression_of(merged.args[3]) == product
    assert expression_of(merged.args[1]) == Dim(2)


def test_assigning_makes_a_shared_configuration_private():
    model = ZOO["phi3"].build()
    slot = Slot("model.layers.0.self_attn", ("config", "num_attention_heads"))
    assign(model, {slot: 4})
    assert model.model.layers[0].self_attn.config.num_attention_heads == 4
    assert model.config.num_attention_heads == 6
    assert model.model.layers[1].self_attn.config.num_attention_heads == 6


def test_the_solver_finds_the_joint_solution_a_greedy_one_misses():
    # a = 4 heads of b = 6: the product shrinks because b did, though a -> 2 would also explain it
    product = Op("*", A, B)
    found = solve(
        [
            Equation(product, 12, 24, "reshape"),
            Equation(B, 3, 6, "view"),
            Equation(A, 4, 4, "view"),
        ],
        {A: 4, B: 6},
        lambda n: frozenset({n, {24: 12, 6: 3, 4: 2}.get(n, n)}),
    )
    assert found.edits == {B: 3}
    assert not found.conflicts


def test_the_solver_reports_what_cannot_hold():
    found = solve([Equation(A, 3, 6, "view"), Equation(A, 6, 6, "view")], {A: 6}, stay)
    assert "3 (was 6)" in found.conflicts[0]
    assert "6 (was 6)" in found.conflicts[0]
    literal = solve([Equation(8, 4, 8, "view at conv")], {}, stay)
    assert "literal 8" in literal.conflicts[0]


def test_sizes_read_from_a_tensor_follow_it():
    expression = Op("*", Dim(3), A)  # kv heads read from a shape, times an attribute
    equations = [Equation(expression, 4, 6, "reshape")]
    found = solve(equations, {A: 2}, lambda n: frozenset({n, 2}) if n == 3 else stay(n))
    assert found.edits == {}
    assert not found.conflicts


def masks(structure, kind, count):
    """The first ``count`` units go, on every free axis of a kind."""
    keep = {}
    for axis in structure.axes:
        if axis.kind == kind and axis.blocked is None:
            keep[axis.name] = torch.arange(axis.size) >= count
    return keep


EDITS = {
    "opt": ("head", {"num_heads"}),
    "t5": ("head", {"n_heads"}),
    "phi3": ("kv_group", {"num_key_value_heads", "num_attention_heads"}),
    "mamba": ("neuron", {"ssm_state_size", "time_step_rank"}),
    "llama": ("query_in_group", {"num_key_value_groups"}),
    "bert": ("head", set()),
}


@pytest.mark.parametrize("name", EDITS)
def test_finds_the_attributes_without_a_table(name):
    kind, expected = EDITS[name]
    entry = ZOO[name]
    model = entry.model()
    structure = trace(model, entry.example())
    keep = masks(structure, kind, 1)
    gone = {var: ~kept for var, kept in structure.resolve(keep)[0].items()}
    solution = edits_for(model, structure, gone)
    assert not solution.conflicts
    assert {slot.steps[-1] for slot in solution.edits} == expected
    cut = cut_module(model, structure, gone)
    silent = silence(structure, model, keep)
    for inputs in two_sizes(structure, model):
        assert difference(run(cut.model, inputs), run(silent, inputs)) is None


def test_attribute_coupled_axes_fail_alone_and_work_together():
    entry = ZOO["llama"]
    model = entry.model()
    structure = trace(model, entry.example())
    dims = [a for a in structure.axes if a.kind == "head_dim"]
    pairs = next(a for a in dims if a.size == 4)
    keep = {pairs.name: torch.tensor([True, False, True, True])}
    gone = {var: ~kept for var, kept in structure.resolve(keep)[0].items()}
    with pytest.raises(SurgeryError, match="head_dim fits"):
        cut_module(model, structure, gone)
    for axis in dims:  # one rotating pair is two positions of the values
        if axis.size == 8:
            keep[axis.name] = torch.arange(8) < 6
    gone = {var: ~kept for var, kept in structure.resolve(keep)[0].items()}
    cut = cut_module(model, structure, gone)
    assert {s.steps[-1]: v for s, v in cut.edits.items()} == {"head_dim": 6}
    silent = silence(structure, model, keep)
    for inputs in two_sizes(structure, model):
        assert difference(run(cut.model, inputs), run(silent, inputs)) is None


def test_the_described_widths_of_layers_are_right():
    entry = ZOO["mobilenetv2"]
    model = entry.model()
    structure = trace(model, entry.example())
    keep = masks(structure, "channel", 2)
    gone = {var: ~kept for var, kept in structure.resolve(keep)[0].items()}
    for module in cut_module(model, structure, gone).model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[0] == module.out_channels
            assert module.weight.shape[1] * module.groups == module.in_channels
        elif isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.running_mean)


def test_the_dense_model_is_left_alone():
    entry = ZOO["llama"]
    model = entry.model()
    before = copy.deepcopy(model.state_dict())
    attributes = {n: dict(vars(m)) for n, m in model.named_modules()}
    structure = trace(model, entry.example())
    keep = masks(structure, "neuron", 5)
    gone = {var: ~kept for var, kept in structure.resolve(keep)[0].items()}
    cut_module(model, structure, gone)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    for n, m in model.named_modules():
        assert vars(m).keys() == attributes[n].keys()
        assert all(type(v) is not TracedInt for v in vars(m).values())
