import pytest
import torch
from torch import nn

from probcomp.errors import InputError
from probcomp.recovery import add_bias, mean_bias
from tests.evidence.seen import rows, weights

ROUNDING = 1e-9
KEPT = torch.tensor([True, False, True, True, False])


def test_the_bias_leaves_no_mean_error():
    x, w = rows(50, 5), weights(3, 5)
    bias = mean_bias(w, x.mean(0), KEPT)
    error = x @ w.T - (x[:, KEPT] @ w[:, KEPT].T + bias)
    assert float(error.mean(0).abs().max()) <= ROUNDING
    naive = sum(x[:, j].mean() * w[:, j] for j in (1, 4))
    assert torch.allclose(bias, naive, rtol=ROUNDING)


@pytest.mark.parametrize("bias", [True, False])
def test_a_bias_is_added_or_made(bias: bool):
    module = nn.Linear(4, 3, bias=bias)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    before = module(x)
    add_bias(module, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert torch.allclose(module(x), before + torch.tensor([1.0, 2.0, 3.0]), atol=1e-6)
    assert module.bias.dtype == torch.float32
    assert "bias" in dict(module.named_parameters())


def test_bad_input():
    w = weights(3, 5)
    with pytest.raises(InputError, match="boolean mask"):
        mean_bias(w, torch.zeros(5), torch.ones(5))
    with pytest.raises(InputError, match="has 5 inputs"):
        mean_bias(w, torch.zeros(4), KEPT)
    with pytest.raises(InputError, match="no place for a bias"):
        add_bias(nn.ReLU(), torch.zeros(3))
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        add_bias(nn.Linear(4, 3), torch.zeros(2))
