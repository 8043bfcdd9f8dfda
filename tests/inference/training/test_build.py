"""The factor graph of a model: supports, gates, costs, orders."""

import pytest
import torch
from torch import nn

from probcomp.errors import InputError
from probcomp.inference.training import Slice, TurboConfig, Units
from probcomp.inference.training.build import (
    build_graph,
    check_target,
    reorder,
    tensor_shapes,
    weight_names,
    with_orders,
)
from probcomp.inference.training.gates import Graph, remove
from probcomp.inference.training.layers import Noise, to_bayesian
from probcomp.priors import Independent

CONFIG = TurboConfig(gate_field=-0.5, cost_power=0.5)


def network() -> nn.Module:
    """1 x 4 x 4 images, 3 channels, then a map from 3 channels of 2 x 2 positions to 2 classes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    to_bayesian(model, Noise())
    return model


def channels() -> Units:
    index = torch.arange(3)[:, None]
    members = [Slice(n, 0, index) for n in ("0.weight", "0.bias", "1.weight", "1.bias")]
    return Units("channel", 3, (*members, Slice("3.weight", 1, torch.arange(12).reshape(3, 4))))


def graph(cost=None, config: TurboConfig = CONFIG, prior=None, groups=None) -> Graph:
    groups = [channels()] if groups is None else groups
    return build_graph(network(), groups, prior or Independent(0.5), cost, config)


def test_shapes_leave_out_the_log_sigmas_and_hold_the_buffers() -> None:
    shapes = tensor_shapes(network())
    assert shapes["0.weight"] == (3, 1, 3, 3)
    assert shapes["1.running_mean"] == (3,)
    assert not any("log_sigma" in name for name in shapes)
    assert weight_names(network()) == ["0.weight", "3.weight"]


def test_supports_gates_and_the_constant_share_out_every_parameter() -> None:
    found = graph()
    assert set(found.matrices) == {"0.weight", "3.weight"}
    assert set(found.gated) == {"0.bias", "1.weight", "1.bias"}
    assert found.constant == 2  # the output's bias
    assert found.total == sum(p.numel() for p in nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(12, 2)
    ).parameters())  # fmt: skip
    assert found.fields["channel"].tolist() == [-0.5] * 3
    (reader,) = found.matrices["3.weight"].slots
    assert reader.dim == 1
    assert reader.index.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize(("kernels", "shape"), [("shared", (3, 1)), ("separate", (3, 3, 3, 1))])
def test_a_kernel_costs_its_positions_together_or_apart(kernels, shape) -> None:
    config = TurboConfig(kernels=kernels, cost_power=0.5)
    matrix = graph({"0.weight": 4.0}, config).matrices["0.weight"]
    assert matrix.sites.shape == shape
    assert float(matrix.cost.sum()) == pytest.approx(4 * 27)
    # Charged by the root of what each weight costs.
    assert float(matrix.charged.sum()) == pytest.approx(2 * 27)


def test_a_cost_by_entry_reaches_its_own_entries() -> None:
    entry = torch.arange(24.0).reshape(2, 12)
    found = graph({"3.weight": entry, "1.bias": torch.tensor([0.0, 4.0, 9.0]), "3.bias": 2.5})
    assert torch.equal(found.matrices["3.weight"].cost, entry)
    assert found.gated["1.bias"].cost.tolist() == [0, 4, 9]
    assert found.gated["1.bias"].charge.tolist() == [0, 2, 3]
    assert found.matrices["0.weight"].cost.sum() == 0  # not named: free
    assert found.constant == 5
    assert found.total == pytest.approx(276 + 13 + 5)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ({"other": 1.0}, "cost names 'other'"),
        ({"3.weight": torch.ones(5)}, r"shape \(5,\), which does not broadcast to \(2, 12\)"),
        ({"3.weight": float("inf")}, "must be finite"),
        ({"3.weight": -1.0}, "not negative"),
        ({"3.weight": 0.0}, "zero everywhere"),
    ],
)
def test_costs_that_do_not_fit_are_refused(cost, message) -> None:
    with pytest.raises(InputError, match=message):
        graph(cost)


def test_units_along_a_kernel_and_priors_with_gaps_are_refused() -> None:
    taps = Units("tap", 3, (Slice("0.weight", 2, torch.arange(3)),))
    with pytest.raises(InputError, match=r"0\.weight: units along a kernel dimension"):
        graph(groups=[taps])
    with pytest.raises(InputError, match=r"no entry for 3\.weight; it has \['0\.weight'\]"):
        graph(prior={"0.weight": Independent(0.5)})


def test_transposed_layers_produce_their_columns() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 2, 3), nn.Conv2d(2, 1, 3))
    to_bayesian(model, Noise())
    found = build_graph(model, [], Independent(0.5), None, CONFIG).matrices
    assert {name: matrix.transposed for name, matrix in found.items()} == {
        name: name == "0.weight" for name in found
    }


def test_targets_are_shares_above_what_cannot_go() -> None:
    found = graph()
    assert check_target(found, None) is None
    assert check_target(found, 0.5) == found.total / 2
    assert check_target(found, 1.0) == found.total
    for bad in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match=r"in \(0, 1\]"):
            check_target(found, bad)
    with pytest.raises(InputError, match="out of reach"):
        check_target(found, 1.9 / found.total)


def wide(units: int = 8) -> Graph:
    model = nn.Sequential(nn.Linear(6, units), nn.ReLU(), nn.Linear(units, 4))
    to_bayesian(model, Noise())
    index = torch.arange(units)[:, None]
    members = (Slice("0.weight", 0, index), Slice("0.bias", 0, index), Slice("2.weight", 1, index))
    return build_graph(model, [Units("h", units, members)], Independent(0.5), None, CONFIG)


def test_orders_move_both_sides_of_a_unit_and_come_back() -> None:
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    found = with_orders(wide(), {"h": order})
    made, read = found.matrices["0.weight"].sites, found.matrices["2.weight"].sites
    values = torch.arange(8.0)
    rows = values[:, None].expand(8, 6)
    assert torch.equal(made.to_lattice(rows)[:, 0], order.float())
    assert torch.equal(read.to_lattice(values.expand(4, 8))[0], order.float())
    assert torch.equal(made.from_lattice(made.to_lattice(rows)), rows)
    assert made.columns is None  # inputs and outputs keep their places
    assert read.rows is None


def test_reordering_puts_units_of_one_kind_side_by_side_and_the_dead_last() -> None:
    graph_ = wide()
    low, high = torch.tensor([1.0, 1, 1, 0, 0, 0]), torch.tensor([0.0, 0, 0, 1, 1, 1])
    kinds = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
    made = torch.stack([low if kind == 0 else high for kind in kinds.tolist()])
    read = torch.ones(4, 8)
    graph_ = remove(graph_, {"h": torch.arange(8) == 2})
    made[2], read[:, 2] = 0, 0
    found, orders = reorder(graph_, {"0.weight": made, "2.weight": read})
    order = orders["h"].tolist()
    assert sorted(order) == list(range(8))
    assert order[-1] == 2
    sides = kinds[torch.tensor(order[:-1])]
    assert int((sides[1:] != sides[:-1]).sum()) == 1  # one place where the kind changes
    assert torch.equal(found.matrices["0.weight"].sites.rows, orders["h"])
