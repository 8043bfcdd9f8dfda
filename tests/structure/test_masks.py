"""Masked weights stay zero: optimisers, deep copies, frozen and tied parameters, bad input."""

import copy
import pickle

import pytest
import torch
from torch import nn

from probcomp.errors import InputError
from probcomp.structure.masks import apply_masks, masks_of, remove_masks

from . import nets


def most(model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=generator) < 0.7 for n, p in model.named_parameters()}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 9, generator=generator)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("copied", [False, True])
def test_zeros_stay_zero_and_the_rest_moves(name: str, copied: bool) -> None:
    torch.manual_seed(0)
    model = nets.MLP()
    masks = most(model)
    assert apply_masks(model, masks) is model
    if copied:
        model = copy.deepcopy(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train(model, OPTIMIZERS[name](model.parameters()))
    for n, p in model.named_parameters():
        assert torch.equal(p[~masks[n]], torch.zeros_like(p[~masks[n]])), n
        assert not torch.equal(p[masks[n]], before[n][masks[n]]), n


def test_a_copy_does_not_share_its_masks_with_the_original() -> None:
    model = nets.MLP()
    apply_masks(model, most(model))
    twin = copy.deepcopy(model)
    assert all(torch.equal(m, masks_of(twin)[n]) for n, m in masks_of(model).items())
    remove_masks(twin)
    assert masks_of(twin) == {}
    assert len(masks_of(model)) == 6
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    assert all((p[~masks_of(model)[n]] == 0).all() for n, p in model.named_parameters())
    train(twin, torch.optim.SGD(twin.parameters(), 0.1))
    assert all((p[~masks_of(model)[n]] != 0).any() for n, p in twin.named_parameters())


def test_masks_survive_pickling_of_the_whole_model() -> None:
    model = nets.MLP()
    masks = most(model)
    twin = pickle.loads(pickle.dumps(apply_masks(model, masks)))
    train(twin, torch.optim.Adam(twin.parameters(), 0.1))
    assert all((p[~masks[n]] == 0).all() for n, p in twin.named_parameters())


def test_masks_are_not_in_the_state_dict() -> None:
    model = nets.MLP()
    names = set(model.state_dict())
    apply_masks(model, most(model))
    assert set(model.state_dict()) == names


def test_a_frozen_parameter_is_masked_when_it_thaws() -> None:
    model = nets.MLP()
    model.requires_grad_(False)
    masks = most(model)
    apply_masks(model, masks)
    assert not any(p.requires_grad for p in model.parameters())
    model.requires_grad_(True)
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    assert all((p[~masks[n]] == 0).all() for n, p in model.named_parameters())


def test_a_second_call_replaces_the_mask() -> None:
    model = nets.MLP()
    name = "layers.0.weight"
    shape = model.layers[0].weight.shape
    apply_masks(model, {name: torch.zeros(shape, dtype=torch.bool)})
    apply_masks(model, {name: torch.ones(shape, dtype=torch.bool)})
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    assert bool((model.layers[0].bias != 0).all())
    assert bool((model.layers[0].weight != 0).any())


def test_a_tied_parameter_goes_by_any_name() -> None:
    model = nets.TiedAutoencoder()
    mask = torch.rand(14, 14) < 0.5
    apply_masks(model, {"again.weight": mask})
    assert torch.equal(masks_of(model)["mix.weight"], mask)
    assert bool((model.mix.weight[~mask] == 0).all())


def test_masks_follow_a_change_of_dtype() -> None:
    model = nets.MLP()
    masks = most(model)
    apply_masks(model, masks).double()
    generator = torch.Generator().manual_seed(1)
    model(torch.randn(8, 9, generator=generator).double()).sum().backward()
    for n, p in model.named_parameters():
        assert bool((p.grad[~masks[n]] == 0).all())


def test_masks_of_a_part_show_in_the_whole() -> None:
    model = nets.SharedTwice()
    part = model.inner
    apply_masks(part, {"0.weight": torch.zeros(20, 12, dtype=torch.bool)})
    assert set(masks_of(model)) == {"inner.0.weight"}


def test_bad_masks_change_nothing() -> None:
    model = nets.MLP()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    good = torch.zeros(24, 9, dtype=torch.bool)
    with pytest.raises(InputError, match=r"layers\.0\.weight"):
        apply_masks(model, {"layers.0.weight": good, "layers.0.weigth": good})
    with pytest.raises(InputError, match="shape"):
        apply_masks(model, {"layers.0.weight": good.t()})
    with pytest.raises(InputError, match="boolean"):
        apply_masks(model, {"layers.0.weight": good.float()})
    assert masks_of(model) == {}
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
