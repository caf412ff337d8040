"""Tables as straight lines, and adds as onnxruntime's own: exact for every byte and every pair of bytes."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsmith.blueprint import InputContract
from bitsmith.deploy.float_operators import Dequantize
from bitsmith.deploy.lines import find_lines
from bitsmith.deploy.onnx_file import to_onnx
from bitsmith.deploy.operators import Add, InputTable, Operator, Split, StoredGrid
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.runtime import LEVELS, infer, session

BYTES = np.arange(256)


def program_of(operators: list[Operator], grids: dict[str, StoredGrid], channels: int, pixels: tuple[int, int]):
    """Operators on an image, their last tensor as numbers."""
    last = operators[-1].name
    shapes = {"input": (channels, *pixels)} | {operator.name: (1, *pixels) for operator in operators[1:]}
    shapes |= {last: (channels if len(operators) == 1 else 1, *pixels)}
    return IntegerProgram(
        operators=(*operators, Dequantize(name="out", layer="out", inputs=(last,))),
        grids=grids,
        shapes=shapes | {"out": shapes[last]},
        input=InputContract(kind="uint8", mean=(0.0,) * channels, std=(1.0,) * channels),
        input_shape=(channels, *pixels),
        classes=(),
        bits={},
    )


def through_onnxruntime(tables: np.ndarray, level: str) -> tuple[np.ndarray, list[str]]:
    """All bytes through an exported table, and the operators that the file has."""
    grid = StoredGrid(step=np.float32(1), zero_point=0, top=255)
    program = program_of(
        [InputTable(name="input", layer="input", table=tables)], {"input": grid}, len(tables), (16, 16)
    )
    model = to_onnx(program)
    pixels = np.tile(BYTES.astype(np.uint8).reshape(1, 1, 16, 16), (1, len(tables), 1, 1))
    computed = infer(session(model.SerializeToString(), level), pixels)[0].reshape(len(tables), 256)
    return computed, [node.op_type for node in model.graph.node]


@settings(deadline=None, max_examples=40)
@given(
    step=st.floats(0.01, 2),
    ratio=st.floats(0.5, 64),
    bits=st.integers(2, 8),
    signed=st.booleans(),
    level=st.sampled_from(sorted(LEVELS)),
)
def test_narrowing_is_a_line_in_every_runtime_setting(step, ratio, bits, signed, level):
    source = StoredGrid(step=np.float32(step), zero_point=128 if signed else 0, top=255)
    zero = 2 ** (bits - 1) if signed else 0
    wanted = StoredGrid(step=np.float32(step * ratio), zero_point=zero, top=2**bits - 1)
    table = wanted.store(source.load(BYTES))
    line = find_lines(table[None])
    computed, operators = through_onnxruntime(table[None], level)
    np.testing.assert_array_equal(computed[0], table)
    assert ("QuantizeLinear" in operators) == (line is not None)


def test_narrowings_of_all_usual_ratios_are_lines():
    """Ties, as at a ratio of 2, can need a lookup; learned steps have none."""
    rng = np.random.default_rng(0)
    for ratio in rng.uniform(1, 40, 50):
        source = StoredGrid(step=np.float32(0.1), zero_point=0, top=255)
        for top in (3, 15, 255):
            wanted = StoredGrid(step=np.float32(0.1 * ratio), zero_point=0, top=top)
            line = find_lines(wanted.store(source.load(BYTES))[None])
            assert line is not None
            assert line.offset == 0


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_pixels_of_three_channels(level):
    mean, std = np.array([[0.485], [0.456], [0.406]], np.float32), np.array([[0.229], [0.224], [0.225]], np.float32)
    grid = StoredGrid(step=np.float32(0.0207), zero_point=128, top=255)
    tables = grid.store((BYTES.astype(np.float32) / np.float32(255) - mean) / std)
    computed, operators = through_onnxruntime(tables, level)
    np.testing.assert_array_equal(computed, tables)
    assert "lookup" not in operators


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_what_is_no_line_is_looked_up(level):
    rng = np.random.default_rng(0)
    tables = rng.integers(0, 256, (2, 256)).astype(np.uint8)
    assert find_lines(tables) is None
    computed, operators = through_onnxruntime(tables, level)
    np.testing.assert_array_equal(computed, tables)
    assert "QuantizeLinear" not in operators


@pytest.mark.parametrize(
    "table",
    [
        np.zeros(256, np.uint8),
        np.full(256, 7, np.uint8),
        np.maximum(BYTES, 128).astype(np.uint8),  # a ReLU on a grid with sign
        np.clip(BYTES, 20, 200).astype(np.uint8),
        (BYTES >= 100).astype(np.uint8),
        np.minimum(np.rint(BYTES / 2), 15).astype(np.uint8),  # every second entry is a tie
    ],
)
def test_bounds_and_ties(table):
    line = find_lines(table[None])
    if line is not None:
        np.testing.assert_array_equal(line.tables[0], table)
    computed, _ = through_onnxruntime(table[None], "all")
    np.testing.assert_array_equal(computed[0], table)


@pytest.mark.parametrize("level", sorted(LEVELS))
@pytest.mark.parametrize("zeros", [(0, 0, 0), (0, 128, 0), (128, 128, 128), (128, 0, 128), (128, 128, 0)])
@pytest.mark.parametrize("top", [255, 100])
def test_adds_are_exact_for_every_pair_of_bytes(level, zeros, top):
    step = np.float32(0.37)
    names = ("left", "right", "sum")
    grids = {name: StoredGrid(step=step, zero_point=zero, top=255) for name, zero in zip(names, zeros, strict=True)}
    grids["input"] = StoredGrid(step=step, zero_point=0, top=255)
    same = np.tile(BYTES.astype(np.uint8), (2, 1))
    program = program_of(
        [
            InputTable(name="input", layer="input", table=same),
            Split(name="left", layer="left", inputs=("input",), start=0, stop=1),
            Split(name="right", layer="right", inputs=("input",), start=1, stop=2),
            Add(name="sum", layer="sum", inputs=("left", "right"), top=top),
        ],
        grids,
        2,
        (256, 256),
    )
    left, right = np.meshgrid(BYTES, BYTES, indexing="ij")
    model: onnx.ModelProto = to_onnx(program)
    assert any(node.op_type == "QLinearAdd" for node in model.graph.node)
    images = np.stack([left, right])[None].astype(np.uint8)
    computed = infer(session(model.SerializeToString(), level), images)[0].reshape(256, 256)
    total = np.clip(left - zeros[0] + right - zeros[1] + zeros[2], 0, top)
    np.testing.assert_array_equal(computed, (total - zeros[2]).astype(np.float32) * step)
