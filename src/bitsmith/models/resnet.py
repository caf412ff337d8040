"""Residual networks for small images: MLPerf Tiny's ResNet-8 and the ResNet-20 of He et al."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class _Block(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + skip(x)), 3x3 convolutions, the first one with the stride."""

    def __init__(self, channels: int, width: int, stride: int, skip: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.skip(x))


class _ResNet(nn.Module):
    """3x3 stem, three stages of `depth` blocks at width, 2 width, 4 width, global average pool, linear."""

    def __init__(self, *, classes: int, channels: int, width: int, depth: int, skip_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages = []
        for stage in range(3):
            wide = width * 2**stage
            blocks = [_Block(wide, wide, 1, nn.Identity()) for _ in range(depth)]
            if stage:
                skip: nn.Module = nn.Conv2d(wide // 2, wide, 1, stride=2, bias=not skip_norm)
                if skip_norm:
                    skip = nn.Sequential(skip, nn.BatchNorm2d(wide))
                blocks[0] = _Block(wide // 2, wide, 2, skip)
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.fc(x)


def resnet8(classes: int = 10, channels: int = 3, width: int = 16) -> nn.Module:
    """The image classifier of MLPerf Tiny, ResNet-8.

    A 3x3 convolution, three residual blocks of `width`, 2 `width` and 4 `width` channels (strides 1, 2, 2), global
    average pool, linear. At 32x32x3: 77,360 weights and 12,501,632 MACs.

    Source: Banbury et al., MLPerf Tiny Benchmark, 2021, arXiv 2106.07597, and its reference code. As there, the 1x1
    skip convolutions carry a bias and no BatchNorm. Where we differ: the 3x3 convolutions have no bias of their own
    (the BatchNorm behind them makes it void); padding of the strided 3x3 is symmetric (TensorFlow's "same" pads right
    and bottom alone); BatchNorm has PyTorch's eps and momentum; weights start from an untruncated normal; the output
    are logits.

    Args:
        classes: outputs.
        channels: of the input; any height and width do.
        width: channels of the first stage.
    """
    net = _ResNet(classes=classes, channels=channels, width=width, depth=1, skip_norm=False)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


def resnet20(classes: int = 10, channels: int = 3, width: int = 16) -> nn.Module:
    """The ResNet-20 for CIFAR-10: 6n + 2 layers with n = 3.

    At 32x32x3: 272,474 parameters, 40,813,184 MACs.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2. Where we differ: skips
    that change the size are 1x1 convolutions with BatchNorm ("option B"); the paper pads with zeros there ("option
    A"), which takes 2,752 parameters less.

    Args:
        classes: outputs.
        channels: of the input; any height and width do.
        width: channels of the first stage.
    """
    net = _ResNet(classes=classes, channels=channels, width=width, depth=3, skip_norm=True)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return net
