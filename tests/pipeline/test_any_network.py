"""Any network passes the whole chain: captured, searched, rebuilt, priced, exported, equal to the reference."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks import CASES, Case, Passed, bring_case, bring_through

# It takes some seconds; the others of torchvision's networks run in the full tier and in the benchmark.
REDUCED = {"shufflenet_v2_x0_5"}


def check(passed: Passed, *, deep: bool = False) -> None:
    found = passed.verification
    # Many layers of fresh weights carry one rounding on as far as chance has it: of ResNet-50's and Inception's outputs
    # some move by more than 5 % of their range on some CPUs. Layer by layer nothing may part there either.
    assert found.parted_layer is None
    assert [what for what in found.problems if not (deep and "simulation and reference" in what)] == []
    assert set(found.differing_outputs.values()) == {0}
    assert found.float_layers == 0
    widths = {(bits.weight, bits.activation) for bits in passed.blueprint.bits.values()}
    assert len(widths) > 1  # the search step left more than the pinned ends


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.timeout(1800)
def test_torchvision(case: Case, full, tmp_path):
    if not full and case.name not in REDUCED:
        pytest.skip("in the full tier")
    passed = bring_case(case, tmp_path)
    check(passed, deep=True)
    assert passed.file <= 1.03 * passed.size + 1000 * passed.layers


class Twice(nn.Module):
    """A convolution used twice, a branch that nobody reads, a sum of three, tensors of unlike scales side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 7, 3, padding=1)
        self.norm = nn.BatchNorm2d(7)
        self.conv = nn.Conv2d(7, 7, 3, padding=2, dilation=2)
        self.dead = nn.Conv2d(7, 50, 1)
        self.head = nn.Linear(21, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        y = self.conv(x)
        self.dead(y)
        y = self.conv(F.silu(y)) + x + y
        y = torch.cat([y, x, torch.sigmoid(y)], 1)
        return self.head(y.mean((2, 3)))


class Split(nn.Module):
    """Odd channel counts, an uneven split, asymmetric padding, gates."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 9, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(9)
        self.left = nn.Conv2d(4, 5, 3, bias=False)
        self.right = nn.Conv2d(5, 5, 1)
        self.gate = nn.Conv2d(5, 5, 1)
        self.head = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.norm(self.stem(F.pad(x, (0, 1, 2, 0)))))
        left, right = x[:, :4], x[:, 4:]
        left = self.left(F.pad(left, (1, 1, 1, 1), mode="reflect"))
        right = self.right(F.max_pool2d(right, 3, 1, 1))
        y = left * right
        y = y * F.hardsigmoid(self.gate(F.adaptive_avg_pool2d(y, 1)))
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Dead(nn.Module):
    """A layer whose filters are all zero, one whose gains are all zero, one whose gains are negative."""

    def __init__(self) -> None:
        super().__init__()
        parts = [nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()]
        for _ in range(3):
            parts += [nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()]
        self.body = nn.Sequential(*parts)
        self.head = nn.Linear(6, 5)
        for place, gain in ((1, -1.0), (7, 0.0)):
            nn.init.constant_(parts[place].weight, gain)
            nn.init.normal_(parts[place].bias)
        nn.init.zeros_(parts[9].weight)
        nn.init.normal_(parts[10].bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


@pytest.mark.parametrize("kind", [Twice, Split, Dead])
def test_hostile_modules(kind, tmp_path):
    torch.manual_seed(0)
    check(bring_through(kind(), (3, 11, 12), tmp_path / "n.onnx"))
