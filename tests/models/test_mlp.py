import pytest
import torch

from probcomp.errors import InputError
from probcomp.models import LeNet300100


def test_counts_and_function() -> None:
    model = LeNet300100()
    assert sum(p.numel() for p in model.parameters()) == 266_610
    assert sum(p.numel() for p in model.parameters() if p.dim() == 2) == 266_200
    x = torch.randn(3, 1, 28, 28)
    w = dict(model.named_parameters())
    h = x.reshape(3, 784)
    for i in (1, 2):
        h = (h @ w[f"fc{i}.weight"].T + w[f"fc{i}.bias"]).clamp(min=0)
    expected = h @ w["fc3.weight"].T + w["fc3.bias"]
    assert torch.allclose(model(x), expected, atol=1e-5)


def test_refuses_empty_layers() -> None:
    with pytest.raises(InputError, match="positive"):
        LeNet300100(0)
