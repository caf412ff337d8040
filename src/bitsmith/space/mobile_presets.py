"""Spaces to start from, by the size of the images.

mobile-224 has the shape of FBNet-V2's largest space (arXiv 2004.05565): kernels, expansions, squeeze-and-excitation,
activations and a first searched range of 16 to 28 channels by 4 are the paper's. The other widths, numbers of blocks
and the head are ours, as are mobile-64 and mobile-32 (28x28 and 32x32 pixels): few strides, narrow stages and small
heads, for files of some 10 to 200 kB.
"""

from __future__ import annotations

from bitsmith.space.mobile_space import MobileSpace, Stage, Stem

MOBILE_SPACES: dict[str, MobileSpace] = {
    "mobile-32": MobileSpace(
        stem=Stem(channels=16, stride=1),
        stages=(
            Stage(channels=(8, 12, 16), expansions=(1.0,)),
            Stage(channels=(12, 16, 20, 24), blocks=(1, 3), stride=2),
            Stage(channels=(24, 32, 40, 48), blocks=(1, 3), stride=2),
            Stage(channels=(48, 64, 80, 96), blocks=(1, 3), stride=2),
        ),
        head=(96, 128, 192, 256),
    ),
    "mobile-64": MobileSpace(
        stem=Stem(channels=16, stride=2),
        stages=(
            Stage(channels=(8, 12, 16), expansions=(1.0,)),
            Stage(channels=(12, 16, 20, 24), blocks=(1, 3), stride=2),
            Stage(channels=(24, 32, 40), blocks=(1, 3), stride=2),
            Stage(channels=(40, 48, 56, 64), blocks=(1, 3)),
            Stage(channels=(64, 80, 96, 112), blocks=(1, 3), stride=2),
        ),
        head=(128, 192, 256, 384),
    ),
    "mobile-224": MobileSpace(
        stem=Stem(channels=16, stride=2),
        stages=(
            Stage(channels=(12, 16), expansions=(1.0,)),
            Stage(channels=(16, 20, 24, 28), blocks=(1, 3), stride=2),
            Stage(channels=(16, 24, 32, 40), blocks=(1, 3), stride=2),
            Stage(channels=tuple(range(48, 97, 8)), blocks=(1, 3), stride=2),
            Stage(channels=tuple(range(72, 129, 8)), blocks=(1, 4)),
            Stage(channels=tuple(range(112, 217, 8)), blocks=(1, 4), stride=2),
        ),
        head=(1024, 1280, 1536, 1984),
        activation="hard_swish",
    ),
}
