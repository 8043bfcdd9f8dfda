import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from probcomp.allocation.counts import check_finite, weight_macs
from probcomp.errors import InputError
from tests.recipes.mixtures import language_model, tokens


def test_macs_of_weights_add_up_to_the_flop_counter():
    """Two operations a multiply-accumulate in PyTorch's own counter, an independent count."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ConvTranspose2d(6, 3, 2, stride=2),
        nn.Flatten(2),
        nn.Linear(100, 5),
    )
    x = torch.randn(3, 2, 14, 14)
    macs = weight_macs(model, lambda m: m(x), samples=3)
    weights = dict(model.named_parameters())
    total = sum(count * weights[name].numel() for name, count in macs.items())
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert total * 3 * 2 == counter.get_total_flops()
    assert set(macs) == {f"{i}.weight" for i in (0, 1, 2, 4)}


def test_a_shared_layer_counts_each_use():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert weight_macs(model, lambda m: m(torch.ones(5, 4)), samples=5) == {"0.weight": 2.0}


def test_check_finite_names_the_tensor():
    with pytest.raises(InputError, match=r"parameter b holds NaN"):
        check_finite([("a", torch.ones(1)), ("b", torch.tensor([float("nan")]))], "parameter")


def test_experts_in_one_tensor_are_counted_by_the_rows_that_are_sent_to_them() -> None:
    model, ids = language_model("mixtral"), tokens(4, 8)["input_ids"]
    macs = weight_macs(model, lambda m: m(input_ids=ids), samples=4)
    for layer in range(2):
        for part in ("gate_up_proj", "down_proj"):
            used = macs[f"model.layers.{layer}.mlp.experts.{part}"]
            assert used == 8 * 2 / 4  # positions of a sample, two of four experts each
