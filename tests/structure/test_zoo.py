"""Every architecture: what is found, and that a cut equals silencing in the dense model."""

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.structure import Axis, Structure, cut_graph, silence, trace
from probcomp.structure.gate import run
from probcomp.structure.recipe import load, save
from probcomp.structure.shrink import shrink_report

from .zoo import Entry, Inputs
from .zoo_holdout import ZOO

# Relative to the largest output: a few hundred roundings of float64 sums in another order.
EXACT = 1e-10
# The same for float32; also where a float64 model computes in float32 inside (grouped products).
SINGLE = 1e-4
# Silencing has to move the output by more than exactness allows, or the comparison says nothing.
POWER = 1e-7

NAMES = list(ZOO)
logging.getLogger("transformers").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Case:
    entry: Entry
    model: nn.Module
    structure: Structure
    inputs: tuple[Inputs, Inputs]

    @property
    def tolerance(self) -> float:
        return SINGLE if self.entry.float32 else EXACT


@functools.cache
def case(name: str) -> Case:
    entry = ZOO[name]
    model = entry.model()
    first, second = entry.example("first"), entry.example("second")
    return Case(entry, model, trace(model, first), (first, second))


def half(axis: Axis, seed: int = 1) -> Tensor:
    """A random half of the units goes; a layer goes as a whole."""
    keep = torch.ones(axis.size, dtype=torch.bool)
    if axis.kind == "layer":
        return ~keep
    count = min(axis.size // 2, axis.size - axis.min_keep)
    generator = torch.Generator().manual_seed(seed)
    keep[torch.randperm(axis.size, generator=generator)[:count]] = False
    return keep


def distance(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest difference relative to the largest entry, over all outputs."""
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    assert all(bool(a.isfinite().all()) for a in (*ours, *theirs))
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs))


def removable(structure: Structure) -> list[Axis]:
    """Axes that can lose a unit."""
    axes = [a for a in structure.axes if a.blocked is None]
    return [a for a in axes if a.kind == "layer" or a.size > a.min_keep]


@pytest.mark.parametrize("name", NAMES)
def test_finds_every_axis_the_configuration_has(name: str) -> None:
    c = case(name)
    found: dict[str, list[int]] = {}
    for axis in c.structure.axes:
        if axis.blocked is None:
            found.setdefault(axis.kind, []).append(axis.size)
    assert len(found.pop("layer", [])) == c.entry.branches
    assert {kind: tuple(sorted(sizes)) for kind, sizes in found.items()} == c.entry.expect
    cuttable = {a.kind for a in c.structure.axes if a.blocked and a.kind in _USER_KINDS}
    assert cuttable == set(c.entry.blocked), c.entry.why_blocked


# A blocked axis of one of these kinds is a gap; inputs, classes and vocabulary are "neuron".
_USER_KINDS = {"head", "kv_group", "query_in_group", "head_dim", "expert", "residual"}


@pytest.mark.parametrize("name", NAMES)
def test_each_axis_alone(name: str) -> None:
    c = case(name)
    dense = run(c.model, c.inputs[0])
    weak = []
    for axis in removable(c.structure):
        keep = {axis.name: half(axis)}
        made = shrink_report(c.model, c.structure, keep)
        if c.entry.surgery == "module" and axis.kind not in ("head_dim", "residual"):
            assert made.surgery == "module", f"{axis.name}: {made.reason}"
        if not axis.exact and axis.kind != "expert":
            assert axis.inexact_because
            got = run(made.model, c.inputs[0])
            assert [t.shape for t in got] == [t.shape for t in dense]
            assert distance(got, run(cut_graph(c.structure, c.model, keep), c.inputs[0])) < (
                c.tolerance
            )
            continue
        silent = silence(c.structure, c.model, keep)
        for inputs in c.inputs:
            error = distance(run(made.model, inputs), run(silent, inputs))
            assert error <= c.tolerance, f"{axis.name} ({axis.kind}): {error:.1e}"
        if distance(run(silent, c.inputs[0]), dense) < POWER:
            weak.append(axis.name)
    assert not weak, f"silencing these moves nothing: {weak}"


@pytest.mark.parametrize("name", NAMES)
def test_all_axes_at_once_and_after_loading(name: str, tmp_path: Path) -> None:
    c = case(name)
    keep = {a.name: half(a, seed=2) for a in removable(c.structure) if a.exact}
    keep = {name: mask for name, mask in keep.items() if c.structure.axis(name).kind != "layer"}
    made = shrink_report(c.model, c.structure, keep)
    silent = silence(c.structure, c.model, keep)
    graph = cut_graph(c.structure, c.model, keep)
    save(made.model, tmp_path)
    loaded = load(tmp_path)
    assert type(loaded).__name__ == type(made.model).__name__
    for inputs in c.inputs:
        found = run(made.model, inputs)
        assert distance(found, run(silent, inputs)) <= c.tolerance
        assert distance(run(graph, inputs), run(silent, inputs)) <= c.tolerance
        assert all(torch.equal(a, b) for a, b in zip(run(loaded, inputs), found, strict=True))
    count = sum(p.numel() for p in made.model.parameters())
    assert count < sum(p.numel() for p in c.model.parameters())
    assert distance(run(silent, c.inputs[0]), run(c.model, c.inputs[0])) > POWER


SINGLE_DEFAULT = ("resnet_basic", "bert", "llama")


@pytest.mark.parametrize(
    "name",
    [n if n in SINGLE_DEFAULT else pytest.param(n, marks=pytest.mark.slow) for n in NAMES],
)
def test_all_axes_at_once_in_single_precision(name: str) -> None:
    entry = ZOO[name]
    model = entry.model(torch.float32)
    inputs = [entry.example(which, torch.float32) for which in ("first", "second")]
    structure = trace(model, inputs[0])
    keep = {a.name: half(a) for a in removable(structure) if a.exact and a.kind != "layer"}
    made = shrink_report(model, structure, keep).model
    silent = silence(structure, model, keep)
    for given in inputs:
        assert distance(run(made, given), run(silent, given)) <= SINGLE


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_a_removed_expert_equals_a_logit_of_minus_infinity(name: str) -> None:
    c = case(name)
    experts = [a for a in c.structure.axes if a.kind == "expert"]
    keep = {a.name: half(a, seed=3) for a in experts}
    for axis in experts:
        assert not axis.exact
        assert "softmax" in str(axis.inexact_because)
        assert axis.min_keep == 2  # the router chooses two
    made = shrink_report(c.model, c.structure, keep, surgery="module").model
    routers = [m for n, m in c.model.named_modules() if n.endswith("mlp.gate")]
    handles = []
    for router, axis in zip(routers, experts, strict=True):
        bias = torch.zeros(axis.size).masked_fill(~keep[axis.name], -torch.inf)

        def forward(hidden: Tensor, router: nn.Module = router, bias: Tensor = bias):
            # the routers of both networks: logits, softmax over experts, top two, renormalised
            hidden = hidden.reshape(-1, hidden.shape[-1])
            logits = torch.nn.functional.linear(hidden, router.weight) + bias
            top, index = torch.topk(logits.softmax(-1, dtype=torch.float), 2, dim=-1)
            return logits, (top / top.sum(-1, keepdim=True)).to(logits.dtype), index

        handles.append((router, router.forward))
        router.forward = forward
    try:
        for inputs in c.inputs:
            reference = run(c.model, inputs)
            assert distance(run(made, inputs), reference) <= SINGLE
    finally:
        for router, _ in handles:
            del router.forward


def test_residual_width_behind_batch_norm_is_exact() -> None:
    c = case("batchnorm_residual")
    axis = next(a for a in c.structure.axes if a.size == 10)
    assert axis.exact


@pytest.mark.parametrize("name", ["llama", "bert", "vit", "gpt2", "mamba", "convnext"])
def test_residual_width_behind_statistics_says_why_it_is_inexact(name: str) -> None:
    c = case(name)
    axes = [a for a in c.structure.axes if a.kind == "residual"]
    assert axes
    for axis in axes:
        assert not axis.exact
        assert "counts units that are zero" in str(axis.inexact_because)


def test_tied_weights_stay_tied() -> None:
    c = case("gpt2")
    keep = {a.name: half(a) for a in c.structure.axes if a.kind in ("residual", "neuron")}
    keep = {n: k for n, k in keep.items() if c.structure.axis(n).blocked is None}
    made = shrink_report(c.model, c.structure, keep, surgery="module").model
    assert made.lm_head.weight is made.transformer.wte.weight
    assert made.lm_head.weight.shape == (61, 24)


def test_a_graph_refuses_an_image_size_that_the_model_fixed() -> None:
    """Padding computed in Python from ``extent % stride`` holds for the extent seen in tracing."""
    c = case("hf_mobilenetv2")
    x = torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(0)).double()
    graph = cut_graph(c.structure, c.model, {})
    with pytest.raises(InputError, match=r"traced for \['any', 3, 33, 33\]"):
        run(graph, {"pixel_values": x})
