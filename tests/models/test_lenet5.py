import torch
from torch import nn

from probcomp.models import LeNet5


def test_counts_and_function() -> None:
    model = LeNet5()
    assert sum(p.numel() for p in model.parameters()) == 431_080
    assert sum(p.numel() for p in model.parameters() if p.dim() > 1) == 430_500
    caffe = nn.Sequential(
        model.conv1, nn.MaxPool2d(2), model.conv2, nn.MaxPool2d(2), nn.Flatten(), model.fc1,
        nn.ReLU(), model.fc2,
    )  # fmt: skip
    x = torch.randn(2, 1, 28, 28)
    assert torch.allclose(model(x), caffe(x), atol=1e-6)
