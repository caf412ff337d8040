"""The pre-activation ResNet-18 that EdMIPS searches."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class _Block(nn.Module):
    """y = bn2(conv2(relu(bn1(conv1(a))))) + skip with a = relu(bn0(x)).

    The skip is x itself, or bn(conv1x1(a)) where the size changes.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False),
                nn.BatchNorm2d(width),
            )

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.bn0(x))
        y = F.relu(self.bn1(self.conv1(a)))
        y = self.bn2(self.conv2(y))
        return y + (x if self.downsample is None else self.downsample(a))


class _PreActivationResNet18(nn.Module):
    def __init__(self, classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(_Block(width, width, 1), _Block(width, width, 1))
        self.layer2 = nn.Sequential(_Block(width, 2 * width, 2), _Block(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(_Block(2 * width, 4 * width, 2), _Block(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(_Block(4 * width, 8 * width, 2), _Block(8 * width, 8 * width, 1))
        self.fc = nn.Linear(8 * width, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x), 3, stride=2, padding=1)
        x = self.bn1(x)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = F.adaptive_avg_pool2d(F.relu(x), 1).flatten(1)
        return self.fc(x)


def edmips_resnet18(classes: int = 1000, channels: int = 3, width: int = 64) -> nn.Module:
    """The ResNet-18 of EdMIPS, in float: each quantized convolution reads relu(BatchNorm(x)).

    7x7 convolution of stride 2, 3x3 max pool of stride 2, BatchNorm without ReLU; eight blocks
    y = bn2(conv2(relu(bn1(conv1(a))))) + skip with a = relu(bn0(x)); no ReLU after the sum, one before the global
    average pool; linear. The skip is x itself, or, in the blocks of stride 2, a 1x1 convolution of a with BatchNorm.
    torchvision's resnet18 is another network with the same convolutions.

    With the authors' layer cost c = Cin Cout k^2 Hin Win / stride^2 over the 19 convolutions but the first, at
    224x224: sum c = 14.667 c(layer1.0.conv1).

    Source: Cai and Vasconcelos, CVPR 2020, arXiv 2004.05795, and its code. Where we differ: ReLU stands where the
    half-wave quantizer acts (it clips at 0 too); the pool is global, where the code asserts 7x7.

    Args:
        classes: outputs.
        channels: of the input; any height and width do.
        width: channels of the first stage.
    """
    return _PreActivationResNet18(classes, channels, width)
