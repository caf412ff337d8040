"""Sequence spaces to start from, by the size of the images.

Few layers and few widths, so that an encoder of 16 numbers can tell the networks apart: 28x28 pixels (digits, clothes),
32x32 (CIFAR), 96x96 (STL-10, person detection), for files of some kilobytes to some hundred. One activation width, as
published; with more, write `activation_bits`.
"""

from __future__ import annotations

from bitsmith.space.mobile_space import Stem
from bitsmith.space.sequence_space import SequenceSpace

SEQUENCE_SPACES: dict[str, SequenceSpace] = {
    "sequence-28": SequenceSpace(
        stem=Stem(channels=8),
        channels=(8, 16, 24, 32, 48),
        layers=(2, 5),
        strided=(1, 3),
    ),
    "sequence-32": SequenceSpace(
        stem=Stem(channels=16),
        channels=(16, 24, 32, 48, 64, 96),
        layers=(3, 7),
        strided=(2, 3),
    ),
    "sequence-96": SequenceSpace(
        stem=Stem(channels=16, stride=2),
        channels=(16, 24, 32, 48, 64, 96, 128),
        layers=(4, 9),
        strided=(3, 4),
    ),
}
