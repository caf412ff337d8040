"""Every operator by itself: the reference against torch in double precision, onnxruntime against whole numbers."""

from __future__ import annotations

from fractions import Fraction

import graphs
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from bitsmith.blueprint import CLIPS, PRICED, Bits, InputContract
from bitsmith.deploy import LEVELS, IntegerProgram, kernels, run, trace, write_onnx
from bitsmith.deploy.float_operators import Dequantize
from bitsmith.deploy.operators import (
    Average,
    Conv,
    InputTable,
    Logits,
    Multiply,
    Operator,
    Split,
    StoredGrid,
    Sums,
    Table,
)
from bitsmith.deploy.runtime import infer, session
from bitsmith.quantize import Folded, Grid
from bitsmith.quantize.layers import apply_free

BYTES = np.arange(256, dtype=np.uint8)


@given(
    graph=graphs.random_graphs().filter(lambda graph: graph.layers),
    bits=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    kind=st.sampled_from(["uint8", "float"]),
)
@example(graph=graphs.modern(), bits=(8, 8), kind="uint8")
@example(graph=graphs.modern(), bits=(2, 3), kind="float")
@example(graph=graphs.every_operator(), bits=(8, 8), kind="uint8")
@torch.no_grad()
def test_each_operator_is_torchs_in_double(graph, bits, kind, case_of):
    """What an operator without weights writes is what torch computes from what it reads, rounded to its grid."""
    case = case_of(graph, bits, kind=kind, images=4)
    program, values = case.program, trace(case.program, case.images)
    written = {operator.name: operator for operator in program.operators}
    # A tensor with a merged clip is written under its producer's name; dropout writes none.
    tensor: dict[str, str] = {}
    for node in graph.nodes:
        merged = node.op in CLIPS and case.frozen.grids.is_merged(node)
        tensor[node.name] = tensor[node.inputs[0]] if merged or node.op == "dropout" else node.name
        if node.op in PRICED | {"input", "affine", "dropout"} or merged:
            continue
        operator = written[node.name]
        inputs = [number(program, tensor[read], values) for read in node.inputs]
        exact = apply_free(node, inputs, training=False).numpy()
        if node.name not in program.grids:  # the logits
            np.testing.assert_allclose(values[node.name], exact, rtol=1e-5, atol=1e-30)
            continue
        grid = program.grids[node.name]
        stored = values[node.name].astype(int)
        top = getattr(operator, "top", grid.top)
        clips = [graph[reader] for reader in graph.consumers[node.name]]
        if len(clips) == 1 and clips[0].op in CLIPS and case.frozen.grids.is_merged(clips[0]):
            exact = apply_free(clips[0], [torch.from_numpy(exact)], training=False).numpy()
        if grid.is_sign:
            assert np.array_equal(stored, np.where(exact >= 0, 2, 0))
            continue
        levels = (exact / np.float64(grid.step) + grid.zero_point).clip(0, top)
        assert np.abs(stored - levels).max() <= 0.5 + 1e-4, node


def number(program: IntegerProgram, name: str, values: dict[str, np.ndarray]) -> torch.Tensor:
    """What a tensor means, in double."""
    if name not in program.grids:
        return torch.from_numpy(values[name]).double()
    grid = program.grids[name]
    return torch.from_numpy((values[name].astype(np.float64) - grid.zero_point) * np.float64(grid.step))


def program_of(operators: list[Operator], grids: dict[str, StoredGrid], shapes: dict[str, tuple[int, ...]]):
    return IntegerProgram(
        operators=tuple(operators), grids=grids, shapes=shapes,
        input=InputContract(kind="uint8", mean=(0.0,), std=(1.0,)),
        input_shape=shapes["x"], classes=(), bits={"layer": Bits(weight=8, activation=8)},
    )  # fmt: skip


def at_all_levels(program: IntegerProgram, images: np.ndarray, folder) -> np.ndarray:
    """The outputs, of which reference and onnxruntime at every level give the same."""
    path = write_onnx(program, folder / "n.onnx")
    expected = run(program, images)
    for level in LEVELS:
        assert np.array_equal(infer(session(path, level), images)[0], expected), level
    return expected


def two_operands(operator: Operator, grids: dict[str, StoredGrid]) -> tuple[IntegerProgram, np.ndarray]:
    """A program that applies an operator to all 65,536 pairs of bytes."""
    shape = (1, 256, 256)
    program = program_of(
        [
            InputTable(name="x", layer="x", table=np.stack([BYTES, BYTES])),
            Split(name="a", layer="a", inputs=("x",), start=0, stop=1),
            Split(name="b", layer="b", inputs=("x",), start=1, stop=2),
            operator,
            Dequantize(name="y:float", layer="y", inputs=("y",)),
        ],
        {"x": StoredGrid(step=np.float32(1), zero_point=0, top=255), **grids},
        {"x": (2, 256, 256), "a": shape, "b": shape, "y": shape, "y:float": shape},
    )
    return program, np.stack(np.meshgrid(BYTES, BYTES, indexing="ij"))[None]


def byte_grid(step: float, signed: bool, top: int = 255) -> StoredGrid:
    return StoredGrid(step=np.float32(step), zero_point=128 if signed else 0, top=top)


@pytest.mark.parametrize("bits", [1, 8])
@pytest.mark.parametrize("signs", [(0, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0)])
def test_products_of_all_pairs_of_bytes(signs, bits, tmp_path):
    """Steps that are powers of two and half a level between them, so that every odd product is a tie."""
    grids = {name: byte_grid(step, bool(s)) for name, step, s in zip("aby", (0.5, 0.25, 64.0), signs, strict=True)}
    if bits == 1:
        grids["y"] = StoredGrid(step=np.float32(64), zero_point=1, top=2)
    program, image = two_operands(Multiply(name="y", layer="y", inputs=("a", "b"), top=grids["y"].top), grids)
    a, b = (BYTES.astype(int) - 128 * sign for sign in signs[:2])
    products = a[:, None] * b
    if bits == 1:
        expected = np.where(products >= 0, 1, -1)
    else:
        whole, rest = products // 512, products % 512
        rounded = whole + ((rest > 256) | ((rest == 256) & (whole % 2 == 1)))
        expected = rounded.clip(-128 * signs[2], 255 - 128 * signs[2])
    assert np.array_equal(at_all_levels(program, image, tmp_path)[0, 0], expected * 64.0)


def test_a_table_that_is_no_line(tmp_path):
    table = np.random.default_rng(0).permutation(BYTES)
    grid = byte_grid(1.0, False)
    program = program_of(
        [
            InputTable(name="x", layer="x", table=np.stack([table, table[::-1]])),
            Table(name="y", layer="y", inputs=("x",), table=table),
            Dequantize(name="y:float", layer="y", inputs=("y",)),
        ],
        {"x": grid, "y": grid},
        {"x": (2, 16, 16), "y": (2, 16, 16), "y:float": (2, 16, 16)},
    )
    image = np.stack([BYTES, BYTES]).reshape(1, 2, 16, 16)
    expected = np.stack([table[table], table[table[::-1]]]).reshape(1, 2, 16, 16)
    assert np.array_equal(at_all_levels(program, image, tmp_path), expected)
    assert kernels(tmp_path / "n.onnx")["GatherElements"] == 2


@pytest.mark.parametrize(
    ("padding", "kernel", "stride"), [((1, 1, 1, 1), 3, 1), ((0, 1, 1, 0), 2, 2), ((1, 0, 0, 1), 2, 1)]
)
def test_means_without_the_padding(padding, kernel, stride, tmp_path):
    """Windows by hand: the numbers on the image alone, half to even."""
    source, grid = byte_grid(1.0, True), byte_grid(1.0, True)
    average = Average(
        name="y", layer="y", inputs=("x",), kernel=(kernel,) * 2, stride=(stride,) * 2, padding=padding, top=255
    )
    top, left, bottom, right = padding
    rows, columns = (7 + top + bottom - kernel) // stride + 1, (5 + left + right - kernel) // stride + 1
    program = program_of(
        [
            InputTable(name="x", layer="x", table=np.stack([BYTES, BYTES])),
            average,
            Dequantize(name="y:float", layer="y", inputs=("y",)),
        ],
        {"x": source, "y": grid},
        {"x": (2, 7, 5), "y": (2, rows, columns), "y:float": (2, rows, columns)},
    )
    image = np.random.default_rng(0).integers(0, 256, (3, 2, 7, 5), dtype=np.uint8)
    got = at_all_levels(program, image, tmp_path)
    ties = 0
    for n, c, i, j in np.ndindex(got.shape):
        r, s = i * stride - top, j * stride - left
        seen = image[n, c, max(r, 0) : r + kernel, max(s, 0) : s + kernel].astype(int) - 128
        mean = Fraction(int(seen.sum()), seen.size)
        ties += mean.denominator == 2
        # One float32 product: where the mean is not a binary fraction, it may miss a tie, which it then isn't.
        assert got[n, c, i, j] == round(mean), (n, c, i, j)
    assert ties > 5


@pytest.mark.parametrize("kind", [Conv, Logits])
def test_sums_beyond_float32_round_half_to_even_twice(kind, tmp_path):
    """acc + bias = m 2^20 + 2^19 + x with x = 0..255: float32 keeps 24 of its up to 27 bits, then the levels tie."""
    m = np.array([3, 4, 31, 64, 101, 127, 6])
    ones = np.ones((len(m), 1, 1, 1), np.int16)
    folded = Folded(
        codes=np.where(np.arange(len(m)).reshape(-1, 1, 1, 1) % 3 == 2, -ones, ones), bits=8, odd=False, shift=0,
        half=np.ones(len(m), np.float16), layer_scale=np.float32(1), stored_bias=(2 * m + 1).astype(np.int16),
        granule=np.float32(2**19), input=Grid(step=1.0, lo=0, hi=255),
    )  # fmt: skip
    sums = Sums(weight=folded.weight, scale=folded.scale, bias=folded.bias, folded=folded, owner="layer")
    grids = {"x": byte_grid(1.0, False), "layer": byte_grid(2.0**20, False)}
    shapes = {"x": (1, 16, 16), "layer": (len(m), 16, 16), "y": (len(m), 16, 16)}
    operators: list[Operator] = [InputTable(name="x", layer="x", table=BYTES[None])]
    if kind is Conv:
        operators.append(Conv(name="layer", layer="layer", inputs=("x",), sums=sums, top=255))
        operators.append(Dequantize(name="y", layer="layer", inputs=("layer",)))
    else:
        operators.append(Logits(name="layer", layer="layer", inputs=("x",), sums=sums))
        grids.pop("layer")
    program = program_of(operators, grids, shapes)
    got = at_all_levels(program, BYTES.reshape(1, 1, 16, 16), tmp_path)[0].reshape(len(m), 256)
    totals = [[int(c) * x + int(b) for x in range(256)] for c, b in zip(folded.codes.ravel(), folded.bias, strict=True)]
    assert max(max(row) for row in totals) > 2**26
    rounded = [[nearest_float32(total) for total in row] for row in totals]
    assert any(a != b for row, near in zip(totals, rounded, strict=True) for a, b in zip(row, near, strict=True))
    if kind is Conv:
        rounded = [[round(Fraction(total, 2**20)) * 2**20 for total in row] for row in rounded]
        assert rounded != [[round(Fraction(total, 2**20)) * 2**20 for total in row] for row in totals]
    assert got.tolist() == rounded


def nearest_float32(n: int) -> int:
    """The nearest number of 24 significant bits, half to even."""
    spare = max(0, abs(n).bit_length() - 24)
    return round(Fraction(n, 2**spare)) * 2**spare
