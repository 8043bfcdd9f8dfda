"""LeNet-5 in the form of the Caffe example: 20-50-500, the form that pruning papers use."""

from torch import Tensor, nn
from torch.nn import functional as F


class LeNet5(nn.Module):
    """Two 5 x 5 convolutions (20, 50), each with 2 x 2 pooling, then 800 - 500 - classes.

    For images [batch, 1, 28, 28]: 431,080 parameters, 430,500 of them weights. As in Caffe, the
    only nonlinearity besides pooling is the ReLU after the first dense layer.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, classes] of ``x`` [batch, 1, 28, 28]."""
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))
