import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import probcomp
from probcomp.errors import BudgetError, InputError, TraceError
from probcomp.kernels import MaskedLinear
from probcomp.recipes.compress import Clock, packed, removable
from probcomp.recipes.methods import METHODS
from probcomp.structure import apply_masks, trace
from tests.recipes.nets import QUICK, Small, clouds, trained


@pytest.fixture(scope="module")
def result():
    return probcomp.compress(
        trained(), clouds(), budget="params=0.3", test=clouds(seed=1), config=QUICK, progress=False
    )


def test_the_model_is_really_smaller_and_still_right(result):
    dense, small = trained(), result.model
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in dense.parameters())
    nonzero = sum(int(p.count_nonzero()) for p in small.parameters())
    total = sum(p.numel() for p in dense.parameters())
    assert nonzero <= 0.3 * total
    assert result.report.compressed.nonzero == nonzero
    assert result.report.budget[0].achieved == pytest.approx(nonzero / total)
    x, y = clouds(seed=1)
    accuracy = float((small(x).argmax(1) == y).float().mean())
    assert accuracy == pytest.approx(result.report.accuracy.compressed.value)
    assert accuracy > 0.9  # the clouds overlap a little; the dense network has about 0.97


def test_the_input_model_is_untouched():
    model = copy.deepcopy(trained())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    probcomp.compress(model, clouds(), budget="params=0.5", config=QUICK, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert type(model.one) is nn.Linear


def test_the_same_seed_gives_the_same_result(result):
    again = probcomp.compress(
        trained(), clouds(), budget="params=0.3", test=clouds(seed=1), config=QUICK, progress=False
    )
    for (name, one), (_, two) in zip(
        result.model.named_parameters(), again.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, two), name
    other = probcomp.compress(
        trained(), clouds(), budget="params=0.3", config=QUICK, progress=False, seed=1
    )
    assert any(not torch.equal(result.masks[n], other.masks[n]) for n in result.masks)


def test_masks_hold_under_further_training(result):
    model = copy.deepcopy(result.model)
    zero = {name: p == 0 for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    x, y = clouds()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            assert not parameter[zero[name]].any(), name


@pytest.mark.parametrize("budget", ["macs=0.3", "bits=0.3"])
def test_other_budgets_are_met(budget):
    result = probcomp.compress(trained(), clouds(), budget=budget, config=QUICK, progress=False)
    line = result.report.budget[0]
    assert line.achieved <= 0.3
    assert line.unit == budget[:4]


def test_without_test_data_a_tenth_is_set_aside(result):
    other = probcomp.compress(
        trained(), clouds(), budget="params=0.5", config=QUICK, progress=False
    )
    assert any("a random tenth" in text for text in other.report.warnings)
    assert not any("a random tenth" in text for text in result.report.warnings)


def test_a_loss_of_the_users_own_and_real_targets():
    x, _ = clouds()
    y = x[:, :3] * 0.5
    result = probcomp.compress(trained(), (x, y), budget="params=0.5", config=QUICK, progress=False)
    assert result.report.accuracy is None
    assert result.report.nll is not None
    huber = probcomp.compress(
        trained(),
        (x, y),
        budget="params=0.5",
        loss=nn.functional.smooth_l1_loss,
        config=QUICK,
        progress=False,
    )
    assert huber.report.nll.compressed.value > 0


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(x) if float(x.sum()) > 0 else -self.fc(x)


def poisoned() -> Small:
    model = copy.deepcopy(trained())
    with torch.no_grad():
        model.two.weight[0, 0] = float("nan")
    return model


def half_pruned() -> Small:
    model = copy.deepcopy(trained())
    prune.l1_unstructured(model.two, "weight", 0.5)
    return model


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"budget": "params=1e9"}, BudgetError, "more than the dense"),
        ({"budget": "flops=0.5"}, BudgetError, "unknown budget unit"),
        ({"budget": "latency_ms=1"}, BudgetError, "not latency_ms"),
        ({"method": "turbo"}, InputError, "Did you mean 'turbo-vbi'"),
        (
            {"data": (torch.ones(9, 5), torch.zeros(9, dtype=torch.long))},
            InputError,
            "does not run",
        ),
        ({"data": (torch.ones(9, 6), torch.full((9,), 3))}, InputError, "has 3 outputs"),
        ({"data": (torch.full((9, 6), torch.nan), torch.zeros(9).long())}, InputError, "NaN"),
        ({"data": "digits"}, InputError, "not understood"),
        ({"model": poisoned}, InputError, r"parameter two.weight holds NaN"),
        ({"model": half_pruned}, InputError, r"two.weight is computed anew.*prune.remove"),
        ({"model": Untraceable}, TraceError, "cannot follow Untraceable"),
        ({"config": 3}, InputError, "must be a TurboConfig"),
    ],
)
def test_bad_input_is_refused_before_the_work(change, error, says):
    given = {"data": clouds(20), "budget": "params=0.5", "progress": False} | change
    model = given.pop("model", trained)()
    with pytest.raises(error, match=says):
        probcomp.compress(model, given.pop("data"), **given)


def test_removable_axes_are_exact_and_of_the_kinds_asked_for():
    structure = trace(trained(), (clouds(2)[0],))
    axes = removable(structure, ("neuron",))
    assert sorted(axis.size for axis in axes) == [12, 24]
    assert removable(structure, ("head",)) == ()


def test_clock_adds_up():
    clock = Clock()
    for _ in range(2):
        with clock("a"):
            pass
    assert list(clock.seconds) == ["a"]
    assert clock.seconds["a"] >= 0


def test_records_of_methods_are_complete():
    for name in METHODS:
        record = METHODS[name].record()
        assert record["name"] == name
        assert all(record[key] not in ("", None) for key in record if key != "prior")
        assert "run" not in record


class Literal(nn.Module):
    """A width written into forward: no attribute could be changed, so only the graph can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(6, 24)
        self.two = nn.Linear(24, 3)

    def forward(self, x):
        y = torch.relu(self.one(x)).view(-1, 24)
        return self.two(y)


def test_a_model_that_only_a_graph_can_follow_says_so():
    torch.manual_seed(0)
    result = probcomp.compress(
        Literal(), clouds(), budget="params=0.4", config=QUICK, progress=False
    )
    assert isinstance(result.model, torch.fx.GraphModule)
    assert any("graph of operators" in text for text in result.report.warnings)


def test_a_method_without_its_own_rule_needs_a_budget():
    with pytest.raises(BudgetError, match=r"magnitude.*needs a budget"):
        probcomp.compress(trained(), clouds(), budget=None, method="magnitude")


def test_masked_layers_run_packed_where_that_is_faster():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 10))
    mask = torch.zeros(1024, 1024, dtype=torch.bool)
    mask[:64, :128] = True  # one dense corner in 1/128 of the weight
    apply_masks(model, {"0.weight": mask})
    x = torch.randn(256, 1024)
    fast, layers = packed(model, lambda m: m(x))
    # A chain in one call is tried as well where the C++ kernel is built; it may or may not win.
    tried = [layer for layer in layers if layer.format != "chain"]
    assert [layer.used for layer in tried] == [True]
    assert isinstance(fast[0], MaskedLinear)
    assert type(model[0]) is nn.Linear
    assert torch.allclose(fast(x), model(x), atol=1e-5)


def test_a_model_without_zeros_inside_is_left_as_it_is():
    model = nn.Sequential(nn.Linear(256, 256))
    assert packed(model, lambda m: m(torch.zeros(1, 256))) == (model, ())
