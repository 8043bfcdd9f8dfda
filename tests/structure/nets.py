"""Small hand-written networks: the classical convolutional designs and adversarial toys.

They live in an importable module, since loading a saved plain network imports its classes.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Three linear layers: two hidden widths."""

    def __init__(self, widths: tuple[int, ...] = (9, 24, 16, 5)) -> None:
        super().__init__()
        pairs = itertools.pairwise(widths)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class LeNet5(nn.Module):
    """Convolutions, pooling, and a flatten that spreads each channel over many inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 4 * 4, 30)
        self.fc2 = nn.Linear(30, 21)
        self.fc3 = nn.Linear(21, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.max_pool2d(torch.tanh(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))


class VGG(nn.Module):
    """A plain stack with batch norm, pooling, and a two-layer head behind adaptive pooling."""

    def __init__(self, plan: tuple[int, ...] = (8, 0, 12, 14, 0, 18)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for item in plan:
            if item == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(width, item, 3, padding=1), nn.BatchNorm2d(item), nn.ReLU()]
            width = item
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(width * 4, 22), nn.ReLU(), nn.Dropout(), nn.Linear(22, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.features(x)))


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (possibly grouped), 1x1 and a shortcut."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.shortcut is None else self.shortcut(x)
        return F.relu(y)


class ResNet(nn.Module):
    """A stem, a list of residual blocks, and a linear head on the pooled features."""

    def __init__(self, stem: int, blocks: list[nn.Module], width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU()
        )
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def resnet_basic() -> ResNet:
    blocks = [BasicBlock(8, 8), BasicBlock(8, 8), BasicBlock(8, 12, 2), BasicBlock(12, 12)]
    return ResNet(8, blocks, 12)


def resnet_bottleneck(groups: int = 1) -> ResNet:
    blocks = [Bottleneck(8, 6, 16, 1, groups), Bottleneck(16, 6, 16, 1, groups)]
    blocks += [Bottleneck(16, 12, 20, 2, groups), Bottleneck(20, 12, 20, 1, groups)]
    return ResNet(8, blocks, 20)


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, project."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inputs * expand
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.identity = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.identity else self.body(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6())
        self.blocks = nn.Sequential(
            InvertedResidual(8, 6, 1, 2),
            InvertedResidual(6, 6, 1, 3),
            InvertedResidual(6, 10, 2, 3),
            InvertedResidual(10, 10, 1, 2),
        )
        self.head = nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half are convolved; then the halves are interleaved."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.depthwise = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        passed, y = x.chunk(2, 1)
        y = F.relu(self.bn1(self.conv1(y)))
        y = self.bn2(self.depthwise(y))
        y = F.relu(self.bn3(self.conv2(y)))
        return channel_shuffle(torch.cat([passed, y], 1), 2)


class ShuffleNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.units = nn.Sequential(ShuffleUnit(16), ShuffleUnit(16))
        self.last = nn.Conv2d(16, 18, 1)
        self.head = nn.Linear(18, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.last(self.units(self.stem(x)))).mean((2, 3)))


class DenseNet(nn.Module):
    """Each layer reads the concatenation of everything before it."""

    def __init__(self, stem: int = 8, growth: int = 6, layers: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(stem + growth * i) for i in range(layers + 1))
        self.convs = nn.ModuleList(
            nn.Conv2d(stem + growth * i, growth, 3, padding=1) for i in range(layers)
        )
        self.head = nn.Linear(stem + growth * layers, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.head(F.relu(self.norms[-1](x)).mean((2, 3)))


class UpNet(nn.Module):
    """Transposed convolutions, one of them grouped."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 12, 3, 2, 1)
        self.up1 = nn.ConvTranspose2d(12, 8, 4, 2, 1, groups=4)
        self.bn = nn.BatchNorm2d(8)
        self.up2 = nn.ConvTranspose2d(8, 10, 2, 2)
        self.out = nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(self.up1(F.relu(self.down(x)))))
        return self.out(F.relu(self.up2(y)))


class UNet(nn.Module):
    """One level down and up with a skip concatenation and group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 12, 3, 2, 1)
        self.norm = nn.GroupNorm(3, 12)
        self.up = nn.ConvTranspose2d(12, 6, 2, 2)
        self.merge = nn.Conv2d(14, 9, 3, padding=1)
        self.out = nn.Conv2d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.enter(x))
        y = self.up(F.silu(self.norm(self.down(skip))))
        return self.out(F.relu(self.merge(torch.cat([y, skip], 1))))


class SharedTwice(nn.Module):
    """One module called twice: its widths are tied to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(7, 12)
        self.inner = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 12))
        self.out = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        return self.out(self.inner(torch.tanh(self.inner(x))))


class TiedAutoencoder(nn.Module):
    """One weight used by two linear maps through the functional form, plus a tied parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(9, 14)
        self.mix = nn.Linear(14, 14, bias=False)
        self.again = nn.Linear(14, 14, bias=False)
        self.again.weight = self.mix.weight
        self.bias = nn.Parameter(torch.zeros(9))

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(self.encode(x))
        code = torch.tanh(self.again(torch.tanh(self.mix(code))))
        return F.linear(code, self.encode.weight.t(), self.bias)


class ConcatSplit(nn.Module):
    """Two producers are concatenated, cut apart at another boundary, and consumed."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(7, 6)
        self.right = nn.Linear(7, 10)
        self.first = nn.Linear(4, 5)
        self.second = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([torch.tanh(self.left(x)), torch.tanh(self.right(x))], -1)
        a, b = both.split([4, 12], -1)
        return self.first(a) * self.second(b)


class ShuffleToy(nn.Module):
    """A channel shuffle written with a literal channel count: no attribute can repair it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1, groups=2, bias=False)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        b, _, h, w = x.shape
        x = x.view(b, 2, 8, h, w).transpose(1, 2).reshape(b, 16, h, w)
        return self.head(F.relu(self.conv2(x)).mean((2, 3)))


class OneAttribute(nn.Module):
    """Attention in which one attribute sizes the query, key and value heads alike."""

    def __init__(self, width: int = 20, heads: int = 4, head_size: int = 6) -> None:
        super().__init__()
        self.heads, self.head_size = heads, head_size
        self.qkv = nn.Linear(width, 3 * heads * head_size)
        self.out = nn.Linear(heads * head_size, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        size = self.heads * self.head_size
        q, k, v = self.qkv(x).split(size, -1)
        q, k, v = (z.view(b, t, self.heads, self.head_size).transpose(1, 2) for z in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).reshape(b, t, size))


class BatchNormResidual(nn.Module):
    """Residual width behind norms that look at one channel at a time: its removal is exact."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.enter = nn.Linear(6, width)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(2))
        self.ups = nn.ModuleList(nn.Linear(width, 13) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(13, width) for _ in range(2))
        self.out = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for norm, up, down in zip(self.norms, self.ups, self.downs):
            x = x + down(F.gelu(up(norm(x))))
        return self.out(x)
