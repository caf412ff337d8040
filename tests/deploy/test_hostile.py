"""Networks that exporters get wrong: shared layers, mixed signs, dead and constant channels, sums beyond 2^24."""

from __future__ import annotations

from dataclasses import replace

import graphs
import numpy as np
import onnx
import pytest
import torch

from bitsmith.blueprint import NetworkGraph, Node, Norm
from bitsmith.cost import price
from bitsmith.deploy import trace, verify_onnx, write_onnx
from bitsmith.errors import ExportError
from bitsmith.quantize.fold import fold
from bitsmith.quantize.quantizer import Grid


def largest_file(case) -> float:
    """What the README promises of a file without class names, for names of operators of up to 30 characters."""
    graph = case.blueprint.graph
    layers, nodes = len(graph.layers), len(graph.nodes)
    return 1.03 * price(graph, case.blueprint.bits)["size"] + 2000 + 1300 * layers + 900 * (nodes - layers)


def check(case, folder):
    """The file on disk equals the reference in every bit, at every level; it is as small as promised."""
    path = write_onnx(case.program, folder / "n.onnx")
    assert path.stat().st_size - sum(map(len, case.program.classes)) <= largest_file(case)
    found = verify_onnx(path, case.frozen, case.program, case.images, case.labels)
    assert found.problems == ()
    assert set(found.differing_outputs.values()) == {0}
    return path


def used_twice() -> NetworkGraph:
    """One convolution on the stem and on its own output, which can be negative; one linear inside and at the end."""
    s = graphs.Sketch((3, 8, 8))
    y = s.same("relu", "relu", s.conv("stem", "x", 5))
    y = s.conv("conv", y, 5)
    y = s.same("add", "add", s.shared("again", y, "conv"), s.shared("thrice", s.same("relu", "r2", y), "conv"))
    y = s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 5)
    y = s.same("tanh", "tanh", y)
    return s.graph(s._add(Node(name="fc2", op="linear", inputs=(y,), shape=(5,), bias=True, shares="fc")))


def mixed_signs() -> NetworkGraph:
    """Tensors of unlike scales, with and without sign, one of them twice; a concat of concats and of features."""
    s = graphs.Sketch((3, 8, 8))
    a = s.same("relu", "a.relu", s.conv("a", "x", 3))
    b = s.conv("b", a, 5)
    y = s.concat("cat", a, b, a)
    y = s.concat("cat2", s.same("sigmoid", "gate", y), y, s.same("relu", "clip", y))
    y = s.flatten("flat", s.global_pool("pool", s.same("relu", "r", s.conv("c", y, 7))))
    y = s.concat("cat3", y, s.linear("fc1", y, 3))
    return s.graph(s.linear("fc", y, 4))


def odd_channels() -> NetworkGraph:
    s = graphs.Sketch((1, 7, 5))
    y = s.same("relu", "r1", s.conv("a", "x", 7))
    y = s.same("relu6", "r2", s.conv("b", y, 1))
    y = s.put("shuffle", "mix", (13, 7, 5), s.conv("c", y, 13), groups=13)
    y = s.concat("cat", s.split("s", y, 2, 5), s.split("t", y, 9, 1))
    y = s.window("conv", "d", y, 3, 3, 2, dilation=(2, 2), padding=(3, 0, 1, 2), bias=True)
    return s.graph(s.linear("fc", s.flatten("flat", y), 3))


def pads() -> NetworkGraph:
    """Every mode around one-bit layers: what is padded with zeros is no sign."""
    s = graphs.Sketch((2, 6, 7))
    y = s.conv("a", s.pad("p0", "x", (1, 2, 0, 1)), 3)
    for index, mode in enumerate(("zeros", "reflect", "replicate", "circular")):
        y = s.conv(f"c{index}", s.pad(f"p{index + 1}", y, (1, 0, 2, 1), mode), 3, kernel=1)
    return s.graph(s.flatten("flat", s.global_pool("pool", y)))


def pools() -> NetworkGraph:
    s = graphs.Sketch((3, 9, 8))
    y = s.conv("a", "x", 4)
    y = s.window("max_pool", "m", y, 4, 3, 1, padding=(2, 1, 0, 2), dilation=(2, 2))
    y = s.conv("b", y, 4)
    y = s.same("relu", "r", s.window("avg_pool", "v", y, 4, 3, 2, padding=(1, 0, 1, 1), count_pad=False))
    y = s.window("avg_pool", "w", s.conv("c", y, 4), 4, 2, 1, padding=(0, 1, 1, 0), count_pad=False)
    return s.graph(s.linear("fc", s.flatten("f", y), 4))


GRAPHS = [used_twice, mixed_signs, odd_channels, pads, pools, graphs.modern]


@pytest.mark.parametrize(("bits", "kind"), [((8, 8), "uint8"), ((3, 4), "float"), ((1, 1), "uint8")])
@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.__name__)
def test_odd_networks(graph, bits, kind, case_of, tmp_path):
    check(case_of(graph(), bits, kind=kind), tmp_path)


def test_a_layer_used_three_times_is_stored_once(case_of, tmp_path):
    case = case_of(used_twice(), (3, 4))
    model = onnx.load(check(case, tmp_path))
    stored = [tensor.name for tensor in model.graph.initializer if tensor.name.endswith(".packed")]
    assert stored == ["stem.packed", "conv.packed", "fc.packed"]
    assert sum(node.op_type == "QLinearConv" for node in model.graph.node) == 1 + 3 + 1 + 1  # and the pool, fc inside


def test_a_flipped_bit_of_a_shared_layer_names_its_first_use(case_of, tmp_path):
    case = case_of(used_twice(), (3, 4))
    path = write_onnx(case.program, tmp_path / "n.onnx")
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == "conv.packed")
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1, *tensor.raw_data[1:]])
    onnx.save(model, path)
    found = verify_onnx(path, case.frozen, case.program, case.images, case.labels)
    assert found.first_difference == "conv"


@pytest.mark.parametrize("bits", [(8, 8), (1, 1), (3, 4)])
@pytest.mark.parametrize("op", ["conv", "shared", "linear", "affine", "avg_pool", "multiply", "gate"])
def test_files_of_many_operators_with_long_names(op, bits, case_of, tmp_path):
    s = graphs.Sketch((3, 8, 8))
    y = first = s.same("relu", "relu", s.conv("stem", "x", 6))
    y = s.flatten("flat", y) if op == "linear" else y
    for index in range(12):
        name = f"features.block{index:02}.layer_{op}".ljust(30, "_")
        if op == "avg_pool":
            y = s.window("avg_pool", name, y, 6, 3, 1, padding=(1, 1, 1, 1), count_pad=False)
        elif op == "linear":
            y = s.linear(name, y, 6)
        elif op == "shared":
            y = s.shared(name, y, "conv") if index else s.conv("conv", y, 6)
        elif op == "multiply":
            y = s.same("multiply", name, y, first)
        else:
            y = s.conv(name, y, 6) if op == "conv" else s.affine(name, y) if op == "affine" else s.gate(name[:23], y)
    y = y if op == "linear" else s.flatten("flat", s.global_pool("pool", y))
    case = case_of(s.graph(s.linear("fc", y, 3)), bits, images=4)
    assert write_onnx(case.program, tmp_path / "n.onnx").stat().st_size <= largest_file(case)


@pytest.mark.parametrize("operator", ["cat", "gate", "clip", "cat3"])
def test_a_wrong_operator_is_named(operator, case_of, tmp_path):
    """Other inputs than the network's, in the middle of the file."""
    case = case_of(mixed_signs(), (8, 8))
    path = write_onnx(case.program, tmp_path / "n.onnx")
    model = onnx.load(path)
    last = next(node for node in model.graph.node if node.output[0] == f"{operator}.y")
    if last.op_type == "Concat":
        last.input[:] = [*last.input[1:], last.input[0]]
    else:
        model.graph.node.remove(last)
        cut = onnx.helper.make_node("Identity", ["cat.y"], [f"{operator}.y"])
        model.graph.node.insert(next(i for i, n in enumerate(model.graph.node) if f"{operator}.y" in n.input), cut)
    onnx.save(model, path)
    found = verify_onnx(path, case.frozen, case.program, case.images, case.labels)
    assert found.first_difference == operator


@pytest.mark.parametrize("bits", [(8, 8), (1, 4)])
@pytest.mark.parametrize("what", ["gamma zero", "gamma negative", "weights zero", "all constant", "tiny variance"])
def test_layers_that_carry_nothing(what, bits, case_of, tmp_path):
    def spoil(network):
        layer = network.layer("twice")
        if what == "weights zero":  # every filter removed
            layer.weight.zero_()
        elif what == "tiny variance":
            layer.weight.mul_(1e-12)
        else:
            layer.norm.weight.fill_(-1.0 if what == "gamma negative" else 0.0)
        if what == "all constant":  # every layer
            for name, other in network.priced():
                if other.norm is not None and name != "twice":
                    other.norm.weight.zero_()

    case = case_of(graphs.modern(), bits, change=spoil)
    check(case, tmp_path)
    values = trace(case.program, case.images)
    if what in ("gamma zero", "weights zero", "all constant"):
        assert (values["twice"] == values["twice"][:1]).all()


def test_an_input_that_is_scaled_and_moved(case_of, tmp_path):
    """As torchvision's googlenet and inception do: in the pixel table, or before the first rounding."""
    plain = graphs.residual()
    first = replace(plain.nodes[0], gain=(0.458, -1.7, 0.0), offset=(-0.03, 0.4, 0.25))
    graph = NetworkGraph(nodes=(first, *plain.nodes[1:]), output=plain.output)
    for kind in ("uint8", "float"):
        case = case_of(graph, (4, 8), kind=kind)
        check(case, tmp_path)
        inside = trace(case.program, case.images)["x"]
        assert (inside[:, 2] == inside[0, 2, 0, 0]).all()  # a gain of zero
    assert case.frozen(torch.zeros(1, 3, 8, 8)).isfinite().all()


def test_sums_beyond_float32_and_their_limit(case_of, tmp_path):
    """A linear layer of 8 bits whose sums pass 2^24; beyond 2^31 is refused."""
    s = graphs.Sketch((8, 24, 24))
    graph = s.graph(s.linear("fc", s.flatten("flat", s.same("sigmoid", "far", s.same("relu", "r", "x"))), 3))

    def one_sign(network):
        network.layer("fc").weight.abs_()

    case = case_of(graph, (8, 8), kind="float", images=6, change=one_sign)
    layer = case.program.weighted[-1]
    assert case.program.accumulator_bound(layer) > 2**24
    check(case, tmp_path)
    wide = np.full((1, 2**31 // (127 * 255) + 1), 127.0)
    with pytest.raises(ExportError, match=r"'wide' is so wide that its sums pass 32 bits"):
        fold(
            "wide", codes=wide, step=np.ones(1), bits=8, odd=False, bias=np.zeros(1), input=Grid(step=1.0, lo=0, hi=255)
        )


def test_a_wide_layer_whose_batch_norm_is_far_from_zero(case_of, tmp_path):
    """40,000 positive weights of 8 bits on positive inputs: the folded mean passes 2^24 units, the filters matter."""
    s = graphs.Sketch((4, 100, 100))
    flat = s.flatten("flat", s.same("relu", "r", "x"))
    wide = s._add(Node(name="wide", op="linear", inputs=(flat,), shape=(6,), norm=Norm()))
    graph = s.graph(s.linear("fc", s.same("tanh", "tanh", wide), 3))

    def one_sign(network):
        network.layer("wide").weight.abs_()
        network.layer("wide").norm.momentum = None  # the statistics of all images

    case = case_of(graph, (8, 8), kind="float", change=one_sign, dead_gain=False)
    folded = case.frozen.layer("wide").folded
    assert np.abs(folded.bias).min() > 2**24
    assert folded.weight.any(1).all()
    x = torch.from_numpy(case.images)
    with torch.no_grad():
        trained, frozen = case.trained(x), case.frozen(x)
    assert (frozen - trained).abs().max() < 0.05 * trained.std()
    check(case, tmp_path)


def test_a_branch_that_nobody_reads_is_not_written(case_of, tmp_path):
    s = graphs.Sketch((3, 8, 8))
    y = s.same("relu", "relu", s.conv("a", "x", 4))
    s.linear("aside", s.flatten("f2", s.conv("dead", y, 9)), 100)
    case = case_of(s.graph(s.linear("fc", s.flatten("f", s.global_pool("p", y)), 3)))
    assert [layer.name for layer in case.blueprint.graph.layers] == ["a", "fc"]
    assert b"dead" not in check(case, tmp_path).read_bytes()
