"""What verification sees of layers left float that one number, one image or one class doesn't show."""

from dataclasses import replace

import graphs
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from bitsmith.blueprint import FLOAT
from bitsmith.deploy import spoken_arithmetic, trace, verify_onnx, write_onnx
from bitsmith.deploy.float_operators import FloatAverage, FloatSums
from bitsmith.deploy.nearness import apart_problems
from bitsmith.deploy.operators import Table
from bitsmith.deploy.reference_float import compute, room, typical
from bitsmith.quantize import FloatFolded

FLOATS = (FLOAT, FLOAT)


@pytest.fixture(scope="module")
def part_float(case_of):
    s = graphs.Sketch((3, 8, 8))
    y = s.conv("inner", s.same("relu", "relu", s.conv("stem", "x", 4)), 4)
    y = s.same("hard_swish", "swish", y)
    y = s.same("add", "add", s.conv("last", y, 4), y)
    graph = s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 5))
    return case_of(graph, [FLOATS, (4, 8), (4, 8), FLOATS], images=4)


def checked(case, path, **options):
    return verify_onnx(path, case.frozen, case.program, case.images, case.labels, **({"levels": ["all"]} | options))


def edit(path, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def root_mean_square(numbers):
    return float(np.sqrt((numbers.astype(np.float64) ** 2).mean()))


def test_means_of_constant_maps_have_room():
    """Adding one number over and over rounds it the same way each time: no error of chance, so no room for one."""
    size = 56
    operator = FloatAverage(
        name="a", layer="a", inputs=("x",), kernel=(size,) * 2, stride=(size,) * 2, padding=(0,) * 4, count_pad=True
    )
    values = np.random.default_rng(0).uniform(0.5, 2, (1, 64, 1, 1)).astype(np.float32)
    x = np.broadcast_to(values, (1, 64, size, size))
    loop = np.add.accumulate(x.reshape(64, -1), axis=1, dtype=np.float32)[:, -1] / np.float32(size**2)
    away = np.abs(loop - compute(operator, [x]).reshape(-1).astype(np.float64))
    assert (away <= np.asarray(room(operator, [x])).reshape(-1)).all()
    assert away.max() > 6 * size * 2.0**-24 * np.abs(values).max()  # more than roundings of chance would be


def test_a_file_with_dead_channels_and_a_large_pool_is_right(draft, case_of, tmp_path):
    d = draft(3, 56, 56)
    d.conv(16)
    d.same("relu")
    d.conv(16)
    d.global_pool()
    d.flatten()
    d.linear(5)
    case = case_of(d.graph(), [FLOATS, (4, 4), FLOATS], stream_bits=FLOAT, images=3, seed=1)
    assert checked(case, write_onnx(case.program, tmp_path / "n.onnx")).ok


def wide(terms, filters=16):
    rng = np.random.default_rng(terms)
    weight, bias = rng.normal(size=(filters, terms)).astype(np.float32), rng.normal(size=filters).astype(np.float32)
    folded = FloatFolded(weight=weight, bias=bias)
    x = np.abs(rng.normal(size=(8, terms))).astype(np.float32)
    return FloatSums(name="a", layer="a", inputs=("x",), folded=folded, owner="a"), x


@pytest.mark.parametrize("signs", ["either", "one"])
@pytest.mark.parametrize("terms", [27, 256, 5000, 12544])
def test_float32_sums_are_nearer_than_is_typical(terms, signs):
    """By a factor of three even where a plain loop adds, be the products of one sign or of both."""
    operator, x = wide(terms)
    if signs == "one":
        folded = FloatFolded(weight=np.abs(operator.folded.weight), bias=np.abs(operator.folded.bias))
        operator = FloatSums(name="a", layer="a", inputs=("x",), folded=folded, owner="a")
    weight, bias = operator.folded.numbers
    right, near = compute(operator, [x])[..., 0], typical(operator, [x])
    loop = np.stack([np.add.accumulate(weight * row, axis=1, dtype=np.float32)[:, -1] + bias for row in x])
    blocks = torch.nn.functional.linear(*map(torch.from_numpy, (x, weight, bias))).numpy()
    assert near >= 3 * root_mean_square(loop - right)
    assert near >= 3 * root_mean_square(blocks - right)


@pytest.mark.parametrize("what", ["input", "output"])
@pytest.mark.parametrize("side", [7, pytest.param(10, id="wider")])
def test_half_precision_in_a_wide_layer_is_noticed(side, what, draft, case_of, tmp_path):
    """256 maps of 7x7 and of 10x10: 12,544 and 25,600 terms, where every number by itself has room for it."""
    d = draft(256, side, side)
    d.flatten()
    d.linear(10)
    case = case_of(d.graph(), [FLOATS], kind="float", images=8)
    case = replace(case, images=case.images * np.float32(0.7))  # as drawn, they are whole 64ths, which float16 holds
    path = write_onnx(case.program, tmp_path / "n.onnx")
    assert checked(case, path).ok

    def change(model):
        nodes = model.graph.node
        at = next(i for i, node in enumerate(nodes) if node.op_type == "Gemm")
        gemm = nodes[at]
        source = gemm.input[0] if what == "input" else "sums"
        target = "back" if what == "input" else gemm.output[0]
        casts = [
            helper.make_node("Cast", [source], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["half"], [target], to=TensorProto.FLOAT),
        ]
        if what == "input":
            gemm.input[0] = target
        else:
            gemm.output[0] = source
        rest = [*casts, gemm] if what == "input" else [gemm, *casts]
        rest = [*nodes[:at], *rest, *nodes[at + 1 :]]
        del nodes[:]
        nodes.extend(rest)

    edit(path, change)
    found = checked(case, path, levels=["disabled"])
    assert found.first_difference == case.program.operators[-1].layer
    assert "differ more, taken together, than float32 sums do" in found.problems[0]


def test_a_wrong_entry_of_a_table_that_no_image_reaches_is_noticed(part_float, tmp_path):
    program, images = part_float.program, part_float.images
    path = write_onnx(program, tmp_path / "n.onnx")
    assert checked(part_float, path).ok
    values = trace(program, images)
    tables = {o.table.tobytes(): o for o in program.operators if isinstance(o, Table)}
    table = next(tables[t.raw_data] for t in onnx.load(path).graph.initializer if t.raw_data in tables)
    entry = next(k for k in range(256) if k not in np.unique(values[table.inputs[0]]))

    def change(model):
        stored = next(t for t in model.graph.initializer if t.raw_data == table.table.tobytes())
        data = bytearray(stored.raw_data)
        data[entry] ^= 1
        stored.raw_data = bytes(data)

    edit(path, change)
    found = checked(part_float, path)
    assert len(found.problems) == 1
    assert "1 of the file's constants are not the program's: c" in found.problems[0]


def test_a_constant_that_is_missing_is_told(part_float, tmp_path):
    path = write_onnx(part_float.program, tmp_path / "n.onnx")

    def change(model):
        tensor = next(t for t in model.graph.initializer if t.name == "fc.bias")
        model.graph.node.insert(0, helper.make_node("Constant", [], ["fc.bias"], value=tensor))
        model.graph.initializer.remove(tensor)

    edit(path, change)
    assert any("constants are not the program's: fc.bias" in problem for problem in checked(part_float, path).problems)


def metadata(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_a_file_says_what_it_computes_in(part_float, case_of, tmp_path):
    path = write_onnx(part_float.program, tmp_path / "n.onnx")
    assert metadata(path)["arithmetic"] == "all integer but 2 float layers: stem, fc"
    assert checked(part_float, path).arithmetic == "all integer but 2 float layers: stem, fc"

    def claim(model):
        next(entry for entry in model.metadata_props if entry.key == "arithmetic").value = "integer"

    edit(path, claim)
    found = checked(part_float, path)
    assert len(found.problems) == 1
    assert "metadata says arithmetic = 'integer'" in found.problems[0]
    integer = case_of(graphs.chain((4,)), (4, 4), images=4)
    assert metadata(write_onnx(integer.program, tmp_path / "i.onnx"))["arithmetic"] == "integer"


def test_what_computes_with_integers_in_words():
    assert spoken_arithmetic([], 3) == "all integer"
    assert spoken_arithmetic(["a", "b"], 3) == "all integer but 2 float layers: a, b"
    assert spoken_arithmetic([], 3, sums=True) == "all integer but float sums between layers"
    assert spoken_arithmetic(["a"], 3, sums=True) == "all integer but 1 float layer: a, and float sums between layers"
    assert spoken_arithmetic(["a", "b", "c"], 3) == "no integer layer"
    assert spoken_arithmetic(["a"], 1, sums=True) == "no integer layer, and float sums between layers"


def test_classes_that_tie_within_float32_are_one():
    rng = np.random.default_rng(0)
    reference = rng.uniform(0, 1, (500, 10)).astype(np.float32)
    reference[:, 3] = reference[:, 5] = 2
    reference[:, 3] += np.float32(1e-6)
    outputs = reference.copy()
    outputs[:, 5] += np.float32(2e-6)
    assert (outputs.argmax(1) != reference.argmax(1)).all()
    assert apart_problems(outputs, reference, "two") == []
    outputs[:, 5] += np.float32(1e-3)
    reference[:, 5] -= np.float32(1e-3)
    assert "different classes on 500 of 500 images, more than 1.0%" in apart_problems(outputs, reference, "two")[0]


def test_the_score_is_that_of_the_last_level(part_float, tmp_path):
    """The one whose predictions are kept."""
    path = write_onnx(part_float.program, tmp_path / "n.onnx")
    scores = iter([0.25, 0.5])
    found = checked(part_float, path, levels=["disabled", "all"], score=lambda outputs, labels: next(scores))
    assert found.scores == {"disabled": 0.25, "all": 0.5}
    assert found.score == 0.5
