"""Survivors of single weights: exact by rows, and in order on the pruned prefix."""

import copy

import pytest
import torch
from torch import Tensor, nn

from probcomp.errors import InputError
from probcomp.evidence import Statistics, collect
from probcomp.evidence.watch import bias_places
from probcomp.inference.quadratic import Quadratic
from probcomp.recipes.post_config import calibration_batches
from probcomp.recipes.post_weights_config import WeightsConfig
from probcomp.recipes.post_weights_layers import layers_of
from probcomp.recipes.post_weights_refit import (
    dense_quadratic,
    output_weights,
    refit_rows,
    settle_all,
    write,
)
from tests.recipes.jobs import job


def rows_and_weight() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    return x, torch.randn(3, 6, generator=generator, dtype=torch.float64)


def test_each_row_is_the_least_squares_solution_on_its_own_mask() -> None:
    x, weight = rows_and_weight()
    mask = torch.tensor([[1, 1, 0, 1, 0, 1], [0, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0]]).bool()
    new = refit_rows(Quadratic(weight, x.T @ x, 0.0), mask)
    for row, kept in zip(range(3), mask):
        wanted = torch.linalg.lstsq(x[:, kept], x @ weight[row]).solution
        torch.testing.assert_close(new[row, kept], wanted, rtol=1e-9, atol=1e-9)
    assert not new[~mask].any()
    plain = refit_rows(Quadratic(weight, x.T @ x, 0.0), mask, adjust=False)
    assert torch.equal(plain, weight * mask)
    with pytest.raises(InputError, match="must be boolean"):
        refit_rows(Quadratic(weight, x.T @ x), mask.double())


def test_means_are_taken_out_where_a_bias_takes_them_up() -> None:
    x, weight = rows_and_weight()
    x = x + 5
    seen = Statistics(x.T @ x, x.sum(0), len(x), len(x))
    config = WeightsConfig(damping=1e-3)
    centred = dense_quadratic(weight, seen, config, centred=True)
    wanted = (x - x.mean(0)).T @ (x - x.mean(0))
    torch.testing.assert_close(centred.gram, wanted, rtol=1e-9, atol=1e-9)
    assert centred.jitter == 1e-3
    assert centred.weight.dtype == torch.float64
    raw = dense_quadratic(weight, seen, WeightsConfig(damping=0.1), centred=False)
    torch.testing.assert_close(raw.gram, (x.T @ x).float())
    assert raw.weight.dtype == torch.float32  # the damping hides what that cannot resolve


def test_outputs_weigh_as_their_fisher_information_and_dead_ones_next_to_nothing() -> None:
    gram, total = torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    assert output_weights(Statistics(gram, total, 10, 10)) is None
    fisher = torch.diag(torch.tensor([20.0, 0.0, 40.0], dtype=torch.float64))
    found = output_weights(Statistics(gram, total, 10, 10, fisher, probes=1))
    assert found is not None
    torch.testing.assert_close(found, torch.tensor([2.0, 2e-6, 4.0], dtype=torch.float64))
    nothing = Statistics(gram, total, 10, 10, 0 * fisher, probes=1)
    assert output_weights(nothing) is None


def test_layers_are_settled_in_order_on_the_pruned_prefix() -> None:
    given = job("params=0.5")
    layers, config = layers_of(given), WeightsConfig(batch_size=50)
    batches = list(calibration_batches(given.train, 50))
    places = bias_places(given.model, layers.matrices, batches[0], given.task.run)
    model, order = copy.deepcopy(given.model), []
    seen: dict[str, Quadratic] = {}
    generator = torch.Generator().manual_seed(0)

    def decide(name: str, quadratic: Quadratic) -> Tensor:
        order.append(name)
        seen[name] = quadratic
        return torch.rand(quadratic.weight.shape, generator=generator) < 0.5

    masks = settle_all(given, config, layers.matrices, model, places, None, decide, lambda: batches)
    assert order == ["one.weight", "two.weight", "three.weight"]
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask].any()
    # The inputs of the last layer are those of the settled ones before it.
    found = collect(
        model, {"three.weight": layers.matrices["three.weight"]}, batches, given.task.run
    )
    gram, total = found["three.weight"].gram, found["three.weight"].sum
    centred = gram - torch.outer(total, total) / found["three.weight"].count
    torch.testing.assert_close(
        seen["three.weight"].gram.double(), centred, rtol=1e-3, atol=1e-3 * float(centred.max())
    )
    x = given.train[0]
    plain = copy.deepcopy(given.model)
    with torch.no_grad():
        for name, mask in masks.items():
            plain.get_parameter(name).mul_(mask)
        dense, new, cut = given.model(x), model(x), plain(x)
    assert float((new - dense).norm()) < 0.7 * float((cut - dense).norm())  # measured 0.59
    assert float((new - dense).mean(0).abs().max()) < 1e-3  # biases take up the mean error


def test_a_bias_gains_what_it_is_given() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    old = model[0].bias.detach().clone()
    given = job("params=0.5")
    matrix = layers_of(given).matrices["one.weight"]
    places = bias_places(
        model, {"0.weight": matrix.__class__(**{**vars(matrix), "module": "0"})},
        (torch.randn(2, 4), torch.zeros(2)), lambda m, b: m(b[0]),
    )  # fmt: skip
    value = torch.ones(3, 4)
    write(model, "0.weight", matrix, value, torch.tensor([1.0, 2.0, 3.0]), places["0.weight"])
    assert torch.equal(model[0].weight, value)
    torch.testing.assert_close(model[0].bias - old, torch.tensor([1.0, 2.0, 3.0]))
    write(model, "0.weight", matrix, value, None, None)
    torch.testing.assert_close(model[0].bias - old, torch.tensor([1.0, 2.0, 3.0]))
