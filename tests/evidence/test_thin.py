"""Layers without their zeros against the layers themselves."""

import pytest
import torch
from torch import nn

from probcomp.evidence.thin import Thin, gathered, plain

EXACT = 1e-12


def layer(bias: bool) -> nn.Linear:
    module = nn.Linear(6, 8, bias=bias).double().requires_grad_(False)
    module.weight[torch.tensor([1, 4, 5])] = 0
    module.weight[:, torch.tensor([0, 2])] = 0
    if bias:
        module.bias[torch.tensor([1, 4])] = 0  # the fifth gives out its bias
    return module


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6), (0, 6)])
def test_the_output_is_that_of_the_layer(bias: bool, shape: tuple[int, ...]) -> None:
    module, x = layer(bias), torch.randn(shape, dtype=torch.float64)
    found = Thin()(module, x)
    assert found.shape == module(x).shape
    torch.testing.assert_close(found, module(x), atol=EXACT, rtol=0)


def test_less_is_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    linear = nn.functional.linear

    def seen(x, weight, bias=None):
        widths.append(tuple(weight.shape))
        return linear(x, weight, bias)

    monkeypatch.setattr("probcomp.evidence.thin.F.linear", seen)
    Thin()(layer(True), torch.randn(3, 6, dtype=torch.float64))
    assert widths == [(7, 4)]  # six rows that give out something, and one for the others


def test_weights_that_change_are_seen() -> None:
    module, thin, x = layer(True), Thin(), torch.randn(3, 6, dtype=torch.float64)
    thin(module, x)
    module.weight[1] = 1.0
    torch.testing.assert_close(thin(module, x), module(x), atol=EXACT, rtol=0)
    module.bias[4] = 2.0
    torch.testing.assert_close(thin(module, x), module(x), atol=EXACT, rtol=0)


def test_a_layer_of_zeros_gives_out_zeros() -> None:
    module = nn.Linear(4, 4).requires_grad_(False)
    module.weight.zero_()
    module.bias.zero_()
    assert torch.equal(Thin()(module, torch.ones(2, 4)), torch.zeros(2, 4))


def test_columns_are_gathered() -> None:
    rows = torch.randn(2, 3, 5)
    assert torch.equal(gathered(rows, torch.tensor([4, 1])), rows[..., [4, 1]])


def test_only_layers_as_they_are_made_are_plain() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    assert plain(nn.Linear(2, 2))
    assert not plain(Doubled(2, 2))
    assert not plain(nn.Conv1d(1, 1, 1))
    patched = nn.Linear(2, 2)
    patched.forward = lambda x: x
    assert not plain(patched)
    with torch.inference_mode():
        assert not plain(nn.Linear(2, 2))
