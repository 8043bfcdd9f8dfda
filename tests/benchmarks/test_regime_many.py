"""Many networks trained side by side take the steps they take alone."""

import pytest

from tests.benchmarks.tiny import TINY


@pytest.fixture
def network():
    import torch
    from torch import nn

    def build():
        return nn.Sequential(
            nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(),
            nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3),
        ).double()  # fmt: skip

    torch.manual_seed(0)
    return build


def test_networks_retrained_side_by_side_take_the_steps_they_take_alone(module, network):
    import copy

    import torch

    from probcomp.regime.pruning import magnitude_masks, prunable_weights
    from probcomp.regime.recipe import Recipe
    from probcomp.regime.training import train

    many = module("_regime_many")
    x, y = torch.randn(40, 5).double(), torch.randint(0, 3, (40,))
    recipe = Recipe(epochs=3, horizon=3, lr=0.2, batch_size=8)
    networks = [network() for _ in range(3)]
    masks = [magnitude_masks(prunable_weights(n), 0.5, "uniform") for n in networks]
    alone = copy.deepcopy(networks)
    for one, mask in zip(alone, masks):
        train(one, (x, y), recipe, seed=7, masks=mask, augment=noisy)
    stack = many.Stack(networks)
    named = {f"layers.{n}": torch.stack([m[n] for m in masks]) for n in masks[0]}
    targets = y[:, None].expand(-1, 3)
    train(stack, (x, targets), recipe, seed=7, masks=named, augment=noisy)
    with torch.no_grad():
        found, expected = stack(x), torch.stack([one(x) for one in alone], -1)
    assert (found - expected).abs().max() < 1e-9
    assert (found - torch.stack([n(x) for n in networks], -1)).abs().max() > 0.1  # they did train


def noisy(x):
    import torch

    return x + 0.1 * torch.randn_like(x)


@pytest.mark.parametrize(("knob", "levels"), [("batch_size", (4, 16)), ("epochs", (1, 2))])
def test_pilots_side_by_side_give_what_they_give_alone(module, tmp_path, knob, levels):
    from probcomp.regime.pilots import run_pilot
    from probcomp.regime.records import pilot_rows
    from probcomp.regime.sweep import grid_configs

    many, path = module("_regime_many"), tmp_path / "tiny.py"
    path.write_text(TINY.replace("KNOB", repr(knob)).replace("LEVELS", repr(levels)))
    found = many.grid_pilots(str(path), 1)
    alone = [run_pilot(c) for c in grid_configs(str(path)) if c.dense_seed == 1]
    assert [record["key"] for record in found] == [record["key"] for record in alone]
    rows, expected = (pilot_rows(records, knob) for records in (found, alone))
    assert len({row["test_error"] for row in rows}) > 2
    barriers = [[record["pairs"][0]["lmc"] for record in records] for records in (found, alone)]
    assert barriers[0] == pytest.approx(barriers[1], abs=1e-6)
    assert max(map(abs, barriers[0])) > 0.01
    for one, other in zip(rows, expected):
        assert one.pop("wall_s") > 0
        other.pop("wall_s")
        assert one == pytest.approx(other, abs=1e-6)
