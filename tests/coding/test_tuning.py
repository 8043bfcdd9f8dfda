"""Codebook training with the indices fixed."""

import math

import pytest
import torch

from probcomp.coding import quantise, tune
from probcomp.errors import DivergenceError
from tests.coding.problem import loss, problem


def test_tuning_lowers_the_loss_and_keeps_the_indices():
    model, batches = problem()
    coarse = quantise(model, 0.05)
    tuned = tune(coarse, batches, epochs=10, rate=1e-2)
    assert loss(tuned.model, batches) < loss(coarse.model, batches) - 0.01
    for name, parameter in tuned.model.named_parameters():
        assert torch.equal(tuned.index[name], coarse.index[name])
        assert ((parameter == 0) == (coarse.index[name] < 0)).all()
        assert parameter.unique().numel() <= coarse.books[name].numel() + 1
        assert torch.equal(parameter, parameter.half().float())
    again = tune(coarse, batches, epochs=10, rate=1e-2)
    assert all(torch.equal(again.books[n], tuned.books[n]) for n in tuned.books)


def test_no_epochs_change_nothing():
    model, batches = problem(64)
    coarse = quantise(model, 0.05)
    assert tune(coarse, batches, epochs=0) is coarse


def test_a_loss_that_is_not_finite_is_told():
    model, batches = problem(64)
    with pytest.raises(DivergenceError, match="tuning codebooks"):
        tune(quantise(model, 0.05), batches, epochs=1, loss=lambda m, b: m(b[0]).sum() * math.nan)


def test_a_model_without_values_is_left_alone():
    model, batches = problem(64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    empty = quantise(model, 0.05)
    assert tune(empty, batches, epochs=3) is empty


def test_the_model_given_is_not_changed():
    model, batches = problem(64)
    coarse = quantise(model, 0.05)
    before = [p.clone() for p in coarse.model.parameters()]
    tune(coarse, batches, epochs=1, rate=0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, coarse.model.parameters()))
    assert all(p.grad is None for p in coarse.model.parameters())


def test_frozen_parameters_are_tuned_and_stay_frozen():
    model, batches = problem(64)
    free = tune(quantise(model, 0.05), batches, epochs=1, rate=0.1)
    coarse = quantise(model, 0.05)
    for part in (list(coarse.model.parameters()), list(coarse.model.parameters())[:1]):
        coarse.model.requires_grad_(True)
        for parameter in part:
            parameter.requires_grad_(False)
        tuned = tune(coarse, batches, epochs=1, rate=0.1)
        assert all(torch.equal(tuned.books[n], free.books[n]) for n in free.books)
        assert [p.requires_grad for p in tuned.model.parameters()] == [
            p.requires_grad for p in coarse.model.parameters()
        ]
