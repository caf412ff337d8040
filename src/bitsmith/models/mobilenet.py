"""A MobileNetV2 for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

# (expansion, channels in eighths of the stem's, blocks, stride of the first block)
_ROWS = ((1, 8, 1, 1), (6, 12, 2, 2), (6, 16, 2, 2), (6, 32, 2, 2))
_HEAD = 96  # eighths likewise


class _Inverted(nn.Module):
    """relu6(bn(expand)), relu6(bn(depthwise 3x3)), bn(project), added to the input where the shapes are equal."""

    def __init__(self, channels: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * channels
        self.expand = _layer(channels, hidden) if expansion != 1 else nn.Identity()
        self.depthwise = _layer(hidden, hidden, kernel=3, stride=stride, groups=hidden)
        self.project = nn.Sequential(nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width))
        self.adds = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


def _layer(channels: int, width: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU6())


class _MobileNet(nn.Module):
    def __init__(self, *, classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.stem = _layer(channels, width, kernel=3)
        blocks, reads = [], width
        for expansion, eighths, count, stride in _ROWS:
            for block in range(count):
                blocks.append(_Inverted(reads, _share(width, eighths), stride if block == 0 else 1, expansion))
                reads = _share(width, eighths)
        self.blocks = nn.Sequential(*blocks)
        self.head = _layer(reads, _share(width, _HEAD))
        self.fc = nn.Linear(_share(width, _HEAD), classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def _share(width: int, eighths: int) -> int:
    return max(1, round(width * eighths / 8))


def mobilenet_v2_small(classes: int = 10, channels: int = 3, width: int = 16) -> nn.Module:
    """A network of MobileNetV2's blocks for images of about 32x32 pixels.

    The first four rows of the published table (expansion, channels, blocks, stride: 1, 16, 1, 1; 6, 24, 2, 2; 6, 32,
    2, 2; 6, 64, 2, 2), relu6, a 1x1 convolution, global average pool, linear. At 32x32x3: 124,096 weights and
    9,154,432 MACs.

    Source: Sandler et al., CVPR 2018, arXiv 1801.04381, table 2. Where we differ, since the images are small: the stem
    has 16 channels and stride 1; the third and fourth row have 2 blocks in place of 3 and 4; the rows of 96 channels
    and more are left out; the last convolution has 192 channels in place of 1280; there is no dropout.

    Args:
        classes: outputs.
        channels: of the input; any height and width do.
        width: channels of the stem; all others in proportion.
    """
    net = _MobileNet(classes=classes, channels=channels, width=width)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return net
