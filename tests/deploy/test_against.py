"""Files that others made: how they are read and fed, what of them is compared, and those that can't be run."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from bitsmith.blueprint import InputContract
from bitsmith.deploy import run, theirs, write_onnx
from bitsmith.deploy.against import compare_with
from bitsmith.deploy.theirs import Feed, read_theirs
from bitsmith.errors import VerifyError

SHAPE = (3, 8, 8)
PIXELS = InputContract(kind="uint8", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def write(path, nodes, inputs: Any = None, outputs: Any = None, constants=()):
    """A file of nodes from "x" to "y"."""
    inputs = inputs or [("x", TensorProto.FLOAT, ["N", *SHAPE])]
    outputs = outputs or [("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def flat(path, shape=("N", *SHAPE), kind=TensorProto.FLOAT):
    """A file that gives its input as rows, so that what it was fed can be seen."""
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), helper.make_node("Flatten", ["f"], ["y"])]
    return write(path, nodes, [("x", kind, list(shape))])


@pytest.fixture(scope="module")
def small(case_of):
    s = graphs.Sketch(SHAPE)
    y = s.same("relu", "r1", s.conv("a", "x", 4))
    y = s.same("add", "sum", s.conv("b", y, 4), y)
    y = s.same("relu", "r2", s.conv("c", y, 5, stride=2))
    return case_of(s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 3)), (8, 8))


def compared(path, case, **feed):
    found = read_theirs(path, SHAPE, case.program.input, Feed(**feed))
    outputs = run(case.program, case.images)
    return compare_with(found, found.run(case.images)[0], case.program, outputs, case.images, case.labels)


def test_our_own_file_is_equal_in_every_layer(small, tmp_path):
    found = compared(write_onnx(small.program, tmp_path / "ours.onnx"), small)
    assert (found.differing_outputs, found.equal_images, found.agreement) == (0, len(small.images), 1.0)
    assert [(layer.layer, layer.differing, layer.error) for layer in found.layers] == [
        (name, 0, 0.0) for name in ("a", "b", "c", "fc")
    ]
    assert (found.unmatched, found.first_difference, found.accuracy) == ((), None, found.accuracy_ours)


def test_a_flipped_weight_is_found_in_its_layer(small, tmp_path):
    path = write_onnx(small.program, tmp_path / "ours.onnx")
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == "c.weight")
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[0] ^= 0x40
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    found = compared(path, small)
    assert found.first_difference == "c"
    assert found.differing_outputs
    assert found.largest_difference


def float_network(case):
    """The same network in plain torch, from the frozen one's own float numbers."""
    frozen, layers = case.frozen, {}
    for name, layer in frozen.priced():
        folded = layer.folded
        step = case.program.grids[next(o.inputs[0] for o in case.program.weighted if o.layer == name)].step
        weight = torch.from_numpy(folded.weight * folded.scale.reshape(-1, *[1] * (folded.weight.ndim - 1)))
        bias = torch.from_numpy(folded.bias * (folded.scale * step)).float()
        layers[name] = weight.float(), bias

    class Plain(nn.Module):
        def forward(self, x):
            def conv(name, x, stride=1):
                return torch.conv2d(x, *layers[name], stride=stride, padding=1)

            x = torch.relu(conv("a", x))
            x = torch.relu(conv("c", conv("b", x) + x, 2))
            return nn.functional.linear(x.mean((2, 3)), *layers["fc"])

    return Plain()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_float_file_of_torch_is_near_and_its_layers_are_matched(small, layout, tmp_path):
    """What torch exports, with its input in either order of its axes."""
    plain = float_network(small)

    class Turned(nn.Module):
        def forward(self, x):
            return plain(x.permute(0, 3, 1, 2) if layout == "NHWC" else x)

    x = torch.zeros(2, *(SHAPE if layout == "NCHW" else (8, 8, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Turned(), (x,), str(tmp_path / "f.onnx"), dynamo=False, input_names=["x"])
    found = compared(tmp_path / "f.onnx", small, values="normalized")
    assert layout in found.reads  # seen from the shape
    assert found.agreement > 0.9
    assert found.equal_images == 0
    assert found.largest_difference is not None
    assert found.largest_difference < 0.1
    assert [layer.layer for layer in found.layers] == ["a", "b", "c", "fc"]
    assert all(layer.error < 0.1 for layer in found.layers)
    assert found.first_difference is not None  # rounding alone
    wrong = compared(tmp_path / "f.onnx", small, values="pixels")
    assert wrong.layers[0].error > 1


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (None, TensorProto.UINT8, lambda x: x),
        ("pixels", TensorProto.INT8, lambda x: x - 128),
        ("pixels", TensorProto.FLOAT16, lambda x: x),
        ("unit", TensorProto.FLOAT, lambda x: x / 255),
        ("normalized", TensorProto.FLOAT, lambda x: (x / 255 - PIXELS.mean) / PIXELS.std),
        ("0.5/0.25", TensorProto.FLOAT, lambda x: (x / 255 - 0.5) / 0.25),
        ("0.5,0.25,0/1,2,4", TensorProto.FLOAT, lambda x: (x / 255 - np.array([0.5, 0.25, 0])) / [1, 2, 4]),
    ],
)
@pytest.mark.parametrize("shape", [("N", *SHAPE), (2, 8, 8, 3), ("N", 192)])
def test_what_a_file_is_fed(values, kind, expected, shape, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    told = Feed(values=values, layout="NHWC" if len(shape) == 2 else None)
    found = read_theirs(flat(tmp_path / "f.onnx", shape, kind), SHAPE, PIXELS, told)
    given = found.feed(pixels).reshape(3, -1)
    right = expected(pixels.transpose(0, 2, 3, 1).astype(np.float64))
    right = right.transpose(0, 3, 1, 2) if shape == ("N", *SHAPE) else right
    np.testing.assert_allclose(given.astype(np.float64), right.reshape(3, -1), rtol=1e-5, atol=1e-6)


def test_a_fixed_batch_is_filled_up(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    found = read_theirs(flat(tmp_path / "f.onnx", (2, *SHAPE), TensorProto.UINT8), SHAPE, PIXELS)
    assert found.batch == 2
    np.testing.assert_array_equal(found.run(pixels)[0], pixels.reshape(3, -1))


def test_own_loaders_numbers_are_given_as_they_are(tmp_path):
    found = read_theirs(flat(tmp_path / "f.onnx"), SHAPE, InputContract())
    x = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    np.testing.assert_array_equal(found.feed(x), x)
    with pytest.raises(VerifyError, match="given as they are"):
        read_theirs(tmp_path / "f.onnx", SHAPE, InputContract(), Feed(values="unit"))


def test_classes_instead_of_numbers(small, tmp_path):
    """A file that ends in ArgMax: predictions and accuracy, no outputs."""
    path = write_onnx(small.program, tmp_path / "ours.onnx")
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["class"], axis=1, keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("class", TensorProto.INT64, ["N"]))
    onnx.save(model, path)
    found = compared(path, small)
    assert (found.agreement, found.equal_images, found.largest_difference) == (1.0, None, None)
    assert [layer.layer for layer in found.layers] == ["a", "b", "c", "fc"]


def test_outputs_that_are_no_numbers_are_no_class(small, tmp_path):
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Div", ["m", "zero"], ["y"]),
    ]
    path = write(tmp_path / "nan.onnx", nodes, constants=[("zero", np.float32(np.nan))])
    model = onnx.load(path)
    model.opset_import[0].version = 13
    onnx.save(model, path)
    found = compared(path, small, values="unit")
    assert found.agreement == found.accuracy == 0
    assert found.layers == ()
    assert len(found.unmatched) == 4


def test_layers_without_a_counterpart_are_named(small, tmp_path):
    weight = np.zeros((3, 3, 8, 8), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[8, 8]),
        helper.make_node("Flatten", ["c"], ["y"]),
    ]
    found = compared(write(tmp_path / "f.onnx", nodes, constants=[("w", weight)]), small, values="unit")
    assert found.unmatched == ("a", "b", "c", "fc")
    assert found.layers == ()
    assert found.first_difference is None


def outside(path):
    """Weights in a file that isn't theirs."""
    flat(path)
    model = onnx.load(path)
    tensor = TensorProto(name="stolen", data_type=TensorProto.UINT8, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../../../etc/passwd")
    model.graph.node.append(helper.make_node("Constant", [], ["more"], value=tensor))
    path.write_bytes(model.SerializeToString())


def endless(path):
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
        ],
    )
    write(path, [helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)], constants=[("true", np.array(True))])


def greedy(path):
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["all"]),
        helper.make_node("ReduceSum", ["all"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    write(path, nodes, constants=[("size", np.array([2**20, 2**18], np.int64))])


def random_bytes(path):
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def truncated(path):
    flat(path)
    path.write_bytes(path.read_bytes()[:-20])


def two_outputs(path):
    nodes = [helper.make_node("Flatten", ["x"], ["y"]), helper.make_node("Identity", ["x"], ["z"])]
    write(path, nodes, outputs=[("y", TensorProto.FLOAT, None), ("z", TensorProto.FLOAT, None)])


HOSTILE = {
    "missing": (lambda path: None, "can't read"),
    "folder": (lambda path: path.mkdir(), "can't read"),
    "empty": (lambda path: path.write_bytes(b""), "is not an ONNX file"),
    "random bytes": (random_bytes, "truncated or not an ONNX file"),
    "truncated": (truncated, "truncated or not an ONNX file"),
    "weights outside": (outside, "keeps the tensor 'stolen' outside itself"),
    "endless": (endless, r"did not answer in 3 s"),
    "greedy": (greedy, "onnxruntime can't run|did not answer"),
    "unknown operator": (lambda p: write(p, [helper.make_node("Sesame", ["x"], ["y"])]), "onnxruntime can't run"),
    "dangling": (lambda p: write(p, [helper.make_node("Add", ["x", "nobody"], ["y"])]), "onnxruntime can't run"),
    "two inputs": (
        lambda p: write(p, [helper.make_node("Add", ["x", "z"], ["y"])], [(n, 1, ["N", *SHAPE]) for n in "xz"]),
        "takes 2 inputs",
    ),
    "no shape": (lambda p: write(p, [helper.make_node("Relu", ["x"], ["y"])], [("x", 1, None)]), "say the shape"),
    "another shape": (lambda p: flat(p, ("N", 3, 224, 224)), r"takes \?x3x224x224, and the run's images are 3x8x8"),
    "any shape": (lambda p: flat(p, ("N", None, None, None)), "say --layout"),
    "text": (lambda p: flat(p, kind=TensorProto.STRING), "which images aren't"),
    "two outputs": (two_outputs, r"gives 2 outputs \(y, z\)"),
    "no classes": (flat, r"holds float32\[192\] per image"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_run_is_one_message(name, small, tmp_path, monkeypatch):
    make, words = HOSTILE[name]
    monkeypatch.setattr(theirs, "_PATIENCE", 2.0)
    path = tmp_path / "theirs.onnx"
    make(path)
    one = replace(small, images=small.images[:1], labels=small.labels[:1])
    with pytest.raises(VerifyError, match=words) as refused:
        compared(path, one, values="unit")
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (Feed(), "say --feed pixels"),
        (Feed(values="0.5"), "can't feed '0.5'"),
        (Feed(values="1,2/3"), "one number, or 3"),
        (Feed(values="0/0"), "std above 0"),
        (Feed(values="unit", layout="NHWC"), "3x8x8 in NHWC"),
        (Feed(values="unit", output="z"), "no output 'z'"),
    ],
)
def test_what_must_be_told(told, words, tmp_path):
    with pytest.raises(VerifyError, match=words):
        read_theirs(flat(tmp_path / "f.onnx"), SHAPE, PIXELS, told)
