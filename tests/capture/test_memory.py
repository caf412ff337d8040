"""Operators that work in place: every name of the changed memory means the new numbers, and no copy does."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bitsmith.capture import capture
from bitsmith.errors import CaptureError
from bitsmith.quantize import build, float_blueprint

SHAPE = (4, 2, 2)
BEHIND = "it works in place on memory that is read afterwards through another view"


class Does(nn.Module):
    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 4, 1)
        self.does = forward

    def forward(self, x):
        return self.does(self.conv(x))


def inputs_of(forward) -> tuple[str, ...]:
    """What the last node reads."""
    graph = capture(Does(forward), SHAPE).graph
    return graph[graph.output].inputs


def test_one_part_changes_and_the_other_does_not():
    def forward(x):
        a, b, c = x[:, :1], x[:, 1:3], x[:, 3:]
        b.sigmoid_()
        return torch.cat([c, b, a, b], 1)

    assert inputs_of(forward) == ("split_2", "sigmoid", "split", "sigmoid")


def test_a_copy_stays():
    def forward(x):
        part = x[:, :2].contiguous()  # a copy: half of the channels lie apart in memory
        whole = x.contiguous()  # none
        kept = x.clone()
        F.relu_(x)
        return torch.cat([part, whole, kept], 1)

    assert inputs_of(forward) == ("split", "relu", "conv")


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: (F.relu_(x[:, :2]), x)[1],
        lambda x: (lambda parts: (F.relu_(x), torch.cat(parts, 1))[1])((x[:, :2], x[:, 2:])),
        lambda x: (lambda a, b: (F.relu_(a), b)[1])(x[:, 0:3], x[:, 1:4]),
        lambda x: (lambda a: (x[:, 2].add_(x[:, 0]), a)[1])(x[:, 1:3]),
        lambda x: (lambda a: (F.relu_(x), a)[1])(x.flatten(1)),
    ],
)
def test_what_cannot_be_followed_is_refused(forward):
    with pytest.raises(CaptureError, match=BEHIND):
        capture(Does(forward), SHAPE)


# A step of a random program: what it does with the tensors made so far, (N, C, 2, 2) each.
Step = tuple[str, int, int]
MAKES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda x, y: F.relu(x),
    "first half": lambda x, y: x[:, : x.shape[1] // 2],
    "second half": lambda x, y: x[:, x.shape[1] // 2 :],
    "middle": lambda x, y: x.narrow(1, x.shape[1] // 4, x.shape[1] // 2),
    "whole": lambda x, y: x[:, :],
    "contiguous": lambda x, y: x.contiguous(),
    "clone": lambda x, y: x.clone(),
    "dropout": lambda x, y: F.dropout(x, 0.5, training=False),
    "cat": lambda x, y: torch.cat([x, y], 1),
    "shuffle": lambda x, y: x.view(-1, 2, x.shape[1] // 2, 2, 2).transpose(1, 2).reshape(x.shape),
    "there and back": lambda x, y: x.flatten(1).reshape(x.shape),
    "squeezed": lambda x, y: x.unsqueeze(1).squeeze(1),
    "add": lambda x, y: x + y if x.shape == y.shape else x,
}
CHANGES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "relu_": lambda x, y: F.relu_(x),
    "add_": lambda x, y: x.add_(y) if x.shape == y.shape else None,
    "add_ relu": lambda x, y: x.add_(F.relu(y)) if x.shape == y.shape else None,
}


def run(steps: list[Step], x: Tensor) -> Tensor:
    made = [x]
    for name, a, b in steps:
        first, second = made[a % len(made)], made[b % len(made)]
        even = first.shape[1] % 4 == 0 and first.shape[1] <= 16
        if name in CHANGES:
            CHANGES[name](first, second)
        elif even and not (name == "shuffle" and not first.is_contiguous()):
            made.append(MAKES[name](first, second))
    return torch.cat(made, 1)


steps = st.tuples(st.sampled_from([*MAKES, *CHANGES, *CHANGES, *CHANGES]), st.integers(0, 5), st.integers(0, 5))


@given(st.lists(steps, min_size=2, max_size=8))
def test_random_programs_are_followed_or_refused(program):
    """Never captured as another network: the check behind must find nothing that reading got wrong."""
    module = Does(lambda x: run(program, x))
    try:
        captured = capture(module, SHAPE)
    except CaptureError as error:
        # Not that the captured network differs. What autograd can't follow isn't ours to follow.
        assert BEHIND in str(error) or "modified by an inplace operation" in str(error)  # noqa: PT017 - no error is right too
        return
    network = build(float_blueprint(captured.graph)).eval()
    network.load_state_dict(captured.state, strict=True)
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(network(x), copy.deepcopy(module)(x.clone()))
