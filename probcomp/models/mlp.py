"""LeNet-300-100: the two-hidden-layer network of the compression literature."""

from torch import Tensor, nn
from torch.nn import functional as F

from probcomp.errors import InputError


class LeNet300100(nn.Module):
    """inputs - 300 - 100 - classes with ReLU (LeCun, Bottou, Bengio, Haffner 1998, table 3).

    Inputs of any shape are flattened. With 784 inputs it has 266,610 parameters.

    Args:
        inputs: numbers in one sample.
        classes: outputs.
        hidden: widths of the two hidden layers.
    """

    def __init__(
        self, inputs: int = 784, classes: int = 10, hidden: tuple[int, int] = (300, 100)
    ) -> None:
        super().__init__()
        if min(inputs, classes, *hidden) < 1:
            raise InputError(f"widths must be positive, got {inputs}, {hidden}, {classes}")
        self.fc1 = nn.Linear(inputs, hidden[0])
        self.fc2 = nn.Linear(hidden[0], hidden[1])
        self.fc3 = nn.Linear(hidden[1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, classes] of ``x`` [batch, ...]."""
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))
