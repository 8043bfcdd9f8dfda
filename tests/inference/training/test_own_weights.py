import pytest
import torch
from torch import nn
from torch.nn.utils import prune, spectral_norm

from probcomp.errors import InputError
from probcomp.inference.training.own_weights import check_plain, own_layers


def linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def test_shared_frozen_and_empty_weights_are_passed_over() -> None:
    model = nn.ModuleDict({n: nn.Linear(3, 3) for n in ("own", "one", "two", "frozen")})
    model["two"].weight = model["one"].weight
    model["frozen"].weight.requires_grad_(False)
    with pytest.warns(UserWarning, match="zero-element"):
        model["empty"] = nn.Linear(0, 3)
    assert list(own_layers(model, linear)) == ["own"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coarse_weights_are_refused_with_what_to_do(dtype) -> None:
    with pytest.raises(InputError, match=r"layer '0' is torch\..*float16.*model\.float\(\)"):
        own_layers(nn.Sequential(nn.Linear(2, 2)).to(dtype), linear)


def test_weights_of_two_types_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    with pytest.raises(InputError, match="of 2 types"):
        own_layers(model, linear)


@pytest.mark.parametrize(
    "change", [spectral_norm, lambda layer: prune.l1_unstructured(layer, "weight", 0.5)]
)
def test_weights_that_hooks_compute_are_refused(change) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(4, 4))
    check_plain(model)
    change(model[1])
    with pytest.raises(InputError, match=r"^1\.weight is computed anew"):
        check_plain(model)
