"""Coding a finished compression: small, as good on training data, and of the size asked for."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

import probcomp
from probcomp.coding import load, quantise
from probcomp.coding.network import network_bytes
from probcomp.coding.quantise import FIRST_VALUES
from probcomp.data import Batches
from probcomp.errors import BudgetError, InputError
from probcomp.recipes.coded import (
    FILE_TOLERANCE,
    SAMPLES,
    SHARE,
    TOLERANCE,
    Trial,
    _loss,
    _part,
    code,
    code_within,
    least_bits,
)
from probcomp.recipes.compress import _try_once
from probcomp.recipes.result import NETWORK
from probcomp.recipes.task import Task
from probcomp.structure import apply_masks, masks_of
from tests.recipes.nets import QUICK, clouds, trained

TRIAL = Trial(Task(), clouds())


def loss(model: nn.Module) -> float:
    x, y = clouds()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(x), y))


def masked() -> nn.Module:
    model = copy.deepcopy(trained())
    return apply_masks(
        model, {n: p.abs() > p.abs().median() for n, p in model.named_parameters() if p.dim() > 1}
    )


def test_a_code_is_small_and_as_good():
    model = masked()
    found = code(model, TRIAL)
    assert found.before == pytest.approx(loss(model))
    assert found.after == pytest.approx(loss(found.model))
    assert found.after <= found.before + max(TOLERANCE, SHARE * found.before)
    assert found.size.bytes == len(found.data) < 0.5 * len(network_bytes(model)[0])
    for name, mask in masks_of(found.model).items():
        assert torch.equal(mask, found.model.get_parameter(name) != 0)


def test_more_tolerance_never_costs_bytes():
    model = masked()
    sizes = [code(model, TRIAL, tolerance).size.bytes for tolerance in (0.0, 0.05, 1.0)]
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(InputError, match="not be negative"):
        code(model, TRIAL, -0.1)


def test_any_loss_is_watched():
    x, _ = clouds()
    with torch.no_grad():
        trial = Trial(Task(), (x, trained()(x)), trains=False)
    found = code(trained(), trial, tolerance=0.05)
    assert found.before == 0
    assert 0 < found.after <= 0.05


def test_nothing_is_trained_where_nothing_may_be():
    """Without training a centroid is the mean of its weights, and biases keep their own."""
    model = masked()
    plain, tuned = (
        code_within(model, dataclasses.replace(TRIAL, trains=t), 8 * 700) for t in (False, True)
    )
    assert plain.size.bytes >= tuned.size.bytes - 8  # two tuned values may become one
    assert any(
        not torch.equal(a, b) for a, b in zip(plain.model.parameters(), tuned.model.parameters())
    )
    for name, weight in plain.model.named_parameters():
        dense = model.get_parameter(name)
        for value in weight[weight != 0].unique():
            mean = dense[weight == value].mean()
            assert abs(value - mean) <= 0.1 * dense.abs().max(), name


@pytest.mark.parametrize("size", [450, 550, 650])
def test_a_size_is_met_from_below(size):
    found = code_within(masked(), TRIAL, 8 * size)
    assert (1 - FILE_TOLERANCE) * size <= found.size.bytes <= size


def test_larger_codebooks_use_what_the_usual_ones_leave():
    found = code_within(masked(), TRIAL, 8 * 730)
    assert 650 < found.size.bytes <= 730
    assert max(t.distinct for t in found.size.tensors) > FIRST_VALUES


def test_values_stay_as_they_are_where_they_fit():
    model = masked()
    found = code_within(model, TRIAL, 8 * 10_000)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), found.model.parameters()))
    with pytest.raises(BudgetError, match=r"bits=80 is out of reach: [\d,]+ are taken"):
        code_within(model, TRIAL, 80)


def test_a_budget_in_bits_is_that_of_the_file(tmp_path):
    result = probcomp.compress(
        trained(), clouds(), budget="bits=0.4", test=clouds(seed=1), config=QUICK, progress=False
    )
    line = result.report.budget[0]
    dense = 32 * sum(p.numel() for p in trained().parameters())
    result.save(tmp_path)
    written = (tmp_path / NETWORK).stat().st_size
    assert (line.unit, line.dense, line.kept) == ("bits", dense, 8 * written)
    assert line.achieved == pytest.approx(8 * written / dense)
    assert 0.4 * (1 - FILE_TOLERANCE) <= line.achieved <= 0.4
    x, _ = clouds(seed=1)
    assert torch.equal(load(tmp_path / NETWORK)(x), result.model.eval()(x))
    assert result.report.coded.accuracy == result.report.accuracy


def test_a_report_has_the_file_beside_the_model(tmp_path):
    result = probcomp.compress(
        trained(), clouds(), budget="params=0.3", test=clouds(seed=1), config=QUICK, progress=False,
        encode=True,
    )  # fmt: skip
    coded = result.report.coded
    size = result.encode(tmp_path / "net.pcn")
    assert coded.bytes == size.bytes == (tmp_path / "net.pcn").stat().st_size
    assert coded.dense_bytes == 4 * sum(p.numel() for p in trained().parameters())
    assert coded.ratio == coded.dense_bytes / coded.bytes
    back = probcomp.load(tmp_path / "net.pcn")
    x, y = clouds(seed=1)
    right = float((back(x).argmax(1) == y).double().mean())
    assert coded.accuracy.compressed.value == pytest.approx(right)
    assert [t.name for t in coded.tensors] == [n for n, _ in back.named_parameters()]
    whole = result.encode(tmp_path / "whole.pcn", lossless=True)
    assert whole.bytes > size.bytes
    assert torch.equal(probcomp.load(tmp_path / "whole.pcn")(x), result.model.eval()(x))
    loose = result.encode(tmp_path / "loose.pcn", tolerance=0.5)
    assert loose.bytes <= size.bytes


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    result = probcomp.compress(
        trained(), clouds(), budget="params=0.3", config=QUICK, progress=False
    )
    assert result.coded is None
    assert result.report.coded is None
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        result.encode(tmp_path / "file" / "net.pcn")


def test_a_size_that_no_file_has_is_refused_before_any_work():
    with pytest.raises(BudgetError, match=r"bits=1000 is out of reach: the architecture alone"):
        probcomp.compress(trained(), clouds(), budget="bits=1000", progress=False)
    assert least_bits(trained()) < 8 * code_within(masked(), TRIAL, 8 * 650).size.bytes


def test_least_bits_hold_where_units_go():
    """Removed units take masks and buffers with them, so the dense model bounds nothing."""

    def net(width: int) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 3, 3)
        )

    small = quantise(net(1), 256.0).model
    assert 0 < least_bits(net(64)) <= 8 * network_bytes(small)[1].bytes


def test_codebooks_are_tried_on_all_of_the_data_where_it_is_sorted():
    count = 2 * SAMPLES
    sorted_data = (torch.arange(count), torch.arange(count) >= SAMPLES)
    inputs, targets = _part(Trial(Task(), sorted_data, seed=1))
    assert len(inputs) == SAMPLES
    assert len(inputs.unique()) == SAMPLES
    assert torch.equal(targets, inputs >= SAMPLES)
    assert 0.45 < targets.float().mean() < 0.55
    named = _part(Trial(Task(), dict(zip("xy", sorted_data)), seed=1))
    assert torch.equal(named["x"], inputs)
    assert torch.equal(named["y"], targets)


def test_measuring_leaves_the_mode_of_every_part():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    first = _loss(TRIAL)(model)
    assert first == _loss(TRIAL)(model)
    _try_once(model, Task(), Batches(clouds(), shuffle=False))
    assert [m.training for m in model] == [True, False, True, True]
    assert [p.requires_grad for p in model[0].parameters()] == [False, True]
