import numpy as np
import pytest
import torch
from torch.nn import functional as F

from probcomp.data import read_data
from probcomp.data.cifar10 import CHANNEL_MEAN, CHANNEL_STD
from probcomp.errors import InputError
from probcomp.evaluation import predict
from probcomp.models import ResNetCIFAR
from probcomp.models.resnet_cifar import Block


@pytest.mark.parametrize(("depth", "params"), [(20, 269_722), (32, 464_154)])
def test_parameters_match_the_published_counts(depth, params) -> None:
    assert sum(p.numel() for p in ResNetCIFAR(depth).parameters()) == params


def test_shortcut_takes_every_second_pixel_and_pads_with_zeros() -> None:
    block = Block(2, 4, 2).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, 2, 6, 6)
    expected = torch.zeros(1, 4, 3, 3)
    expected[:, 1:3] = x[:, :, ::2, ::2]
    assert torch.allclose(block(x), F.relu(expected), atol=1e-6)


@pytest.mark.parametrize("depth", [2, 21])
def test_refuses_other_depths(depth) -> None:
    with pytest.raises(InputError, match="6n"):
        ResNetCIFAR(depth)


def test_reproduces_a_pretrained_network(real_data) -> None:
    """ResNet-20 weights of 91.73 % accuracy: the same classes, image by image."""
    stored = np.load(real_data / "weights" / "cifar10_resnet20.npz")
    model = ResNetCIFAR(20)
    fresh = model.state_dict()
    values = {k: torch.from_numpy(stored[k]) for k in stored.files}
    model.load_state_dict({k: values.get(k, v) for k, v in fresh.items()})
    assert set(fresh) - set(values) <= {k for k in fresh if k.endswith("num_batches_tracked")}
    data = read_data(real_data / "cifar10")
    x, y = (tensor[:200] for tensor in data.test)
    mean, std, mean_theirs, std_theirs = (
        torch.tensor(v).view(1, 3, 1, 1)
        for v in (CHANNEL_MEAN, CHANNEL_STD, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    found = predict(model, ((x * std + mean - mean_theirs) / std_theirs, y))
    reference = np.load(real_data / "weights" / "reference_predictions.npz")["cifar10_resnet20"]
    assert found.log_probability.argmax(1).tolist() == reference[:200].tolist()
