"""A process that captures again and again doesn't grow."""

import gc

from torch import nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from bitsmith.capture import capture


def test_torch_keeps_no_symbols_of_networks_captured_before():
    def symbols_after_another_capture() -> int:
        capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)), (3, 4, 4))
        gc.collect()
        return sum(type(thing) is ShapeEnv for thing in gc.get_objects())

    counts = [symbols_after_another_capture() for _ in range(5)]
    assert counts[-1] <= counts[1], f"{counts} sets of symbols are alive after each capture"
