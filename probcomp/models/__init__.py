"""Small reference networks and a plain training loop."""

from probcomp.models.lenet5 import LeNet5 as LeNet5
from probcomp.models.mlp import LeNet300100 as LeNet300100
from probcomp.models.resnet_cifar import ResNetCIFAR as ResNetCIFAR
from probcomp.models.train import train as train
