"""Layers excluded from quantization: the file computes what training computes, and verification sees what doesn't."""

import graphs
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from bitsmith.blueprint import FLOAT, PRICED, Node
from bitsmith.capture import capture
from bitsmith.cost import costs_at_streams, exact
from bitsmith.deploy import LEVELS, run, verify_onnx, write_onnx
from bitsmith.deploy.float_operators import Dequantize, FloatComputing, FloatSums, Quantize
from bitsmith.deploy.operators import Conv, Logits
from bitsmith.deploy.reference_float import FUNCTIONS, compute, room
from bitsmith.models.edmips import edmips_resnet18
from bitsmith.quantize import FloatFolded
from bitsmith.quantize.layers import apply_free

FLOATS = (FLOAT, FLOAT)


def everywhere(channels):
    """A network in which layers stand wherever one can stand."""
    s = graphs.Sketch((channels, 8, 8))
    y = s.same("relu", "stem.relu", s.conv("stem", "x", 4))
    z = s.conv("inner", s.same("relu6", "first.relu", s.conv("first", y, 6)), 6)
    z = s.same("hard_swish", "swish", s.conv("depthwise", s.same("relu", "inner.relu", z), 6, groups=6))
    y = s.same("add", "add", s.conv("before_add", z, 4, kernel=1), y)
    y = s.same("relu", "add.relu", y)
    y = s.concat("concat", s.conv("in_concat", y, 3), s.same("relu", "b.relu", s.conv("beside", y, 3, stride=1)))
    y = s.gate("gate", s.conv("before_gate", y, 4))
    y = s.max_pool("max", s.same("relu", "last.relu", s.conv("last", y, 6, stride=2)))
    return s.graph(s.linear("classifier", s.flatten("flat", s.global_pool("pool", s.conv("head", y, 8))), 5))


LAYERS = [layer.name for layer in everywhere(1).layers]
MIXED = [(4, 4), (1, 3), (8, 8), (2, 2), (5, 6), (3, 1), (7, 8)]
INPUTS = ((1, "uint8"), (3, "uint8"), (3, "float"))


def exclude(graph, *layers, floats=FLOATS):
    return [floats if la.name in layers else MIXED[i % len(MIXED)] for i, la in enumerate(graph.layers)]


def verified(case, path, **options):
    path = write_onnx(case.program, path)
    found = verify_onnx(path, case.frozen, case.program, case.images, case.labels, trained=case.trained, **options)
    assert found.ok, found.problems
    graph, bits = case.blueprint.graph, case.blueprint.bits
    if len(graph.layers) > 8:  # the functions that every file brings along are more than a few tiny layers
        size = exact("size", graph, bits, costs_at_streams(case.blueprint.stream_bits))
        weighted = sum(node.op in PRICED | {"affine"} for node in graph.nodes)
        assert path.stat().st_size <= 1.03 * size + 1000 * weighted
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_any_layer_can_stay_float(layer, case_of, tmp_path, full):
    if layer in ("first", "beside", "before_gate", "last", "head", "gate.fc") and not full:
        pytest.skip("of its neighbors' kind; part of the full tier")
    for index, (channels, kind) in enumerate(INPUTS):
        if index != LAYERS.index(layer) % 3 and layer not in ("stem", "classifier"):
            continue
        graph = everywhere(channels)
        case = case_of(graph, exclude(graph, layer), kind=kind, images=12, seed=index)
        levels = list(LEVELS) if index == LAYERS.index(layer) % 3 else ["all"]
        found = verified(case, tmp_path / "n.onnx", levels=levels)
        assert found.excluded == (layer,)
        assert not found.exact
        assert found.float_layers == 1
        assert found.integer_layers >= len(LAYERS) - 1
        assert max(found.largest_difference.values()) < 1e-5
        if layer != "classifier":
            assert found.agreement == 1


@pytest.mark.parametrize(
    ("layer", "floats"),
    [("stem", (8, FLOAT)), ("depthwise", (1, FLOAT)), ("classifier", (3, FLOAT)), ("inner", (FLOAT, 3))],
)
def test_half_a_layer_can_stay_float(floats, layer, case_of, tmp_path):
    """Float weights on integers, and integer weights on floats, which are stored at their bits."""
    graph = everywhere(3)
    case = case_of(graph, exclude(graph, layer, floats=floats), images=12)
    found = verified(case, tmp_path / "n.onnx", levels=["all"])
    assert found.excluded == (layer,)
    if floats[0] != FLOAT:
        spec = next(la for la in graph.layers if la.name == layer)
        tensors = {t.name: t for t in onnx.load(tmp_path / "n.onnx").graph.initializer}
        stored = tensors[f"{layer}.{'codes' if floats[0] == 8 else 'packed'}"]
        assert len(stored.raw_data) == -(-spec.weights * floats[0] // 8)


@pytest.mark.parametrize("quantizer", ["gaussian", "pact", "lsq-pow2"])
def test_other_quantizers_beside_float_layers(quantizer, case_of, tmp_path, full):
    if quantizer != "gaussian" and not full:
        pytest.skip("the other quantizers are part of the full tier")
    graph = everywhere(3)
    bits = exclude(graph, "stem", "in_concat", "classifier")
    bits[4] = (2, FLOAT)
    verified(case_of(graph, bits, quantizer=quantizer, images=12), tmp_path / "n.onnx", levels=["all"])


@st.composite
def excluded(draw):
    graph = draw(graphs.random_graphs())
    widths = st.sampled_from([1, 2, 3, 4, 8, FLOAT, FLOAT])
    bits = [(draw(widths), draw(widths)) if draw(st.booleans()) else FLOATS for _ in graph.layers]
    return graph, bits, draw(st.sampled_from(["uint8", "float"])), draw(st.sampled_from([8, 8, FLOAT]))


def _random_case(drawn, case_of):
    graph, bits, kind, stream_bits = drawn
    return case_of(graph, bits, kind=kind, stream_bits=stream_bits, images=8)


def test_random_networks_with_random_float_layers(case_of, tmp_path, full):
    @settings(max_examples=200 if full else 10)
    @given(excluded())
    def check(drawn):
        case = _random_case(drawn, case_of)
        found = verified(case, tmp_path / "n.onnx", levels=list(LEVELS) if full else ["disabled", "all"])
        assert found.exact == (not any(isinstance(o, FloatComputing) for o in case.program.operators))
        assert set(found.excluded) == {n for n, b in case.blueprint.bits.items() if FLOAT in (b.weight, b.activation)}
        if found.exact:
            assert not any(found.differing_outputs.values())
        same_kind_of_numbers(case)

    check()


def same_kind_of_numbers(case):
    """Every layer of the file reads what it read in training: numbers on the file's grid, or on none at all."""
    reads = {}

    def note(name):
        def hook(layer, inputs):
            x = inputs[0]
            quantize = layer.quantize_input
            use = inputs[1].name if len(inputs) > 1 and inputs[1] is not None else name
            reads[use] = x if quantize is None else quantize(x), quantize

        return hook

    handles = [layer.register_forward_pre_hook(note(name)) for name, layer in case.trained.priced()]
    with torch.no_grad():
        x = torch.from_numpy(case.images)
        if case.program.input.kind == "uint8":
            column = (-1, *[1] * (x.ndim - 2))
            mean, std = (torch.tensor(v).reshape(column) for v in (case.program.input.mean, case.program.input.std))
            x = (x.float() / 255 - mean) / std
        case.trained(x)
    for handle in handles:
        handle.remove()
    makers = {operator.name: operator for operator in case.program.operators}
    for operator in case.program.operators:
        if not isinstance(operator, Conv | Logits | FloatSums) or operator.name not in reads:
            continue
        source = operator.inputs[0]
        if isinstance(makers[source], Dequantize):
            source = makers[source].inputs[0]
        numbers, quantizer = reads[operator.name]
        carrier = case.trained.grids.reads[operator.name]
        in_training = quantizer is not None or (carrier in case.trained.grids.stream and case.trained.streams)
        assert (source in case.program.grids) == bool(in_training), operator.name
        if source in case.program.grids:
            levels = numbers / case.program.grids[source].step
            assert torch.allclose(levels, levels.round(), atol=1e-3)


@pytest.mark.parametrize("quantizer", ["hwgq", "hwgq-optimal"])
def test_composite_as_published_has_a_file(quantizer, case_of, tmp_path, full):
    """EdMIPS: float ends, float sums, half-integer levels."""
    if quantizer != "hwgq" and not full:
        pytest.skip("the other steps are part of the full tier")
    torch.manual_seed(0)
    graph = capture(edmips_resnet18(classes=5, width=4), (3, 32, 32)).graph
    inner = [(1, 2), (2, 4), (3, 3), (4, 2), (1, 3), (4, 4)]
    bits = [inner[i % 6] for i in range(len(graph.layers))]
    bits[0] = bits[-1] = FLOATS
    case = case_of(graph, bits, quantizer=quantizer, stream_bits=FLOAT, images=6)
    found = verified(case, tmp_path / "n.onnx", levels=list(LEVELS) if full else ["all"])
    assert found.float_streams
    stored = sum(len(tensor.raw_data) for tensor in onnx.load(tmp_path / "n.onnx").graph.initializer)
    assert stored <= exact("size", graph, case.blueprint.bits, costs_at_streams(FLOAT))
    assert len(found.excluded) == 2
    assert found.integer_layers == len(graph.layers) - 2


@pytest.fixture(scope="module")
def mixed(case_of):
    graph = everywhere(3)
    return case_of(graph, exclude(graph, "stem", "inner", "in_concat", "classifier"), images=24)


@pytest.fixture
def path(mixed, tmp_path):
    return write_onnx(mixed.program, tmp_path / "network.onnx")


def found_in(case, path, **options):
    found = verify_onnx(path, case.frozen, case.program, case.images, case.labels, **options)
    assert not found.ok
    return found


def edit(path, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def flip(path, name, byte, bit):
    def change(model):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        data = bytearray(tensor.raw_data)
        data[byte] ^= 1 << bit
        tensor.raw_data = bytes(data)

    edit(path, change)


@pytest.mark.parametrize("layer", ["stem", "inner", "in_concat", "classifier"])
def test_the_least_bit_of_a_float_number_names_its_layer(layer, mixed, path):
    flip(path, f"{layer}.weight", 8, 0)  # little-endian: the last bit of the mantissa
    found = found_in(mixed, path, levels=["all"])
    assert found.first_difference == layer
    assert f"layer {layer!r}: 1 of its" in found.problems[0]
    assert "stored weights are wrong" in found.problems[0]
    flip(path, f"{layer}.weight", 8, 0)
    flip(path, f"{layer}.bias", 0, 0)
    assert "1 of its" in found_in(mixed, path, levels=["all"]).problems[0]


@pytest.mark.parametrize("layer", ["first", "depthwise", "before_add", "last", "head"])
def test_a_flipped_bit_behind_float_layers_names_its_layer(layer, mixed, path):
    bits = mixed.blueprint.bits[layer].weight
    place = (next(la.weights for la in mixed.blueprint.graph.layers if la.name == layer) - 1) * bits
    flip(path, f"{layer}.{'weight' if bits == 8 else 'packed'}", place // 8, place % 8)
    assert found_in(mixed, path, levels=["all"]).first_difference == layer


def insert(path, tensor, *make):
    """Nodes between what writes a tensor and who reads it; the first reads `NAME.old`, the last writes NAME."""

    def change(model):
        nodes = model.graph.node
        at = next(i for i, node in enumerate(nodes) if tensor in node.output)
        nodes[at].output[list(nodes[at].output).index(tensor)] = f"{tensor}.old"
        rest = [*nodes[: at + 1], *(node for node, _ in make), *nodes[at + 1 :]]
        for _, constants in make:
            model.graph.initializer.extend(constants)
        del nodes[:]
        nodes.extend(rest)

    edit(path, change)


def scaled_by(tensor, factor):
    constant = onnx.numpy_helper.from_array(np.array(factor, np.float32), "factor")
    return helper.make_node("Mul", [f"{tensor}.old", "factor"], [tensor]), [constant]


@pytest.mark.parametrize("factor", [1.0001, 0.999])
def test_a_float_layer_that_is_a_little_off_is_named(factor, mixed, path):
    insert(path, "inner.y", scaled_by("inner.y", factor))
    found = found_in(mixed, path)
    assert found.first_difference == "inner"
    assert all("outputs differ" in problem for problem in found.problems)


def test_half_precision_in_a_float_layer_is_noticed(mixed, path):
    to_half = helper.make_node("Cast", ["in_concat.y.old"], ["half"], to=TensorProto.FLOAT16)
    back = helper.make_node("Cast", ["half"], ["in_concat.y"], to=TensorProto.FLOAT)
    insert(path, "in_concat.y", (to_half, []), (back, []))
    assert found_in(mixed, path, levels=["disabled"]).first_difference == "in_concat"


def test_a_float_tensor_that_is_quantized_in_the_file_alone_is_noticed(mixed, path):
    """Eight bits where training has none: outputs hardly move, so that only the layer shows it."""
    reads = next(o.inputs[0] for o in mixed.program.operators if o.name == "inner")
    assert reads == "first.relu"  # written as numbers for the float layer
    step = onnx.numpy_helper.from_array(np.array(6 / 255, np.float32), "step")
    zero = onnx.numpy_helper.from_array(np.array(0, np.uint8), "zero")
    down = helper.make_node("QuantizeLinear", ["first.relu.y.old", "step", "zero"], ["down"])
    up = helper.make_node("DequantizeLinear", ["down", "step", "zero"], ["first.relu.y"])
    insert(path, "first.relu.y", (down, [step, zero]), (up, []))
    found = found_in(mixed, path, levels=["disabled"])
    assert found.first_difference == "first.relu"


def test_a_wrong_step_back_to_integers_is_noticed(mixed, path):
    stored = next(o for o in mixed.program.operators if isinstance(o, Quantize) and o.layer == "in_concat")

    def change(model):
        node = next(
            n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.output[0].startswith(stored.name)
        )
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array(mixed.program.grids[stored.name].step * 1.01, np.float32), "other")
        )
        node.input[1] = "other"

    edit(path, change)
    assert found_in(mixed, path, levels=["disabled"]).first_difference == "in_concat"


def test_other_float_kernels_are_named(mixed, path):
    """A float kernel that no excluded layer is: an identity convolution in front of an integer layer."""
    constant = onnx.numpy_helper.from_array(np.eye(6, dtype=np.float32)[:, :, None, None], "eye")
    insert(
        path,
        "inner.y",
        (helper.make_node("Conv", ["inner.y.old", "eye"], ["inner.y"], name="extra", kernel_shape=[1, 1]), [constant]),
    )
    found = found_in(mixed, path, levels=["all"])
    assert any("ran in floating point: " in problem for problem in found.problems)
    assert found.float_layers == 5


def test_float_sums_of_any_order_have_room_and_little_more():
    """torch's float32 convolutions, and sums in random order, are inside; a relative error of 0.1 % is not."""
    rng = np.random.default_rng(0)
    for channels, kernel in ((3, 3), (16, 1), (64, 3)):
        weight = rng.normal(size=(8, channels, kernel, kernel)).astype(np.float32)
        bias = rng.normal(size=8).astype(np.float32)
        x = rng.normal(size=(2, channels, 9, 9)).astype(np.float32)
        folded = FloatFolded(weight=weight, bias=bias)
        operator = FloatSums(name="a", layer="a", inputs=("x",), folded=folded, owner="a")
        right, slack = compute(operator, [x]), np.asarray(room(operator, [x]))
        torch_y = (
            torch.conv2d(torch.from_numpy(x), torch.from_numpy(weight), torch.from_numpy(bias))
            .numpy()
            .reshape(right.shape)
        )
        assert (np.abs(torch_y - right) <= slack).all()
        order = rng.permutation(channels)
        windows = np.lib.stride_tricks.sliding_window_view(x[:, order], (kernel, kernel), axis=(2, 3))
        products = (windows[:, None] * weight[None, :, order, None, None]).reshape(2, 8, channels, -1, kernel * kernel)
        total = np.zeros((2, 8, products.shape[3]), np.float32)
        for c in range(channels):
            for k in range(kernel * kernel):
                total += products[:, :, c, :, k]
        assert (np.abs(total + bias[:, None] - right) <= slack).all()
        assert (np.abs(right * np.float32(1.001) - right) > slack).mean() > 0.5
        assert slack.max() < 1e-4 * np.abs(right).max() * channels


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_are_torchs(name):
    x = torch.linspace(-9, 9, 4001)
    right = apply_free(Node(name="f", op=name, shape=(1,)), [x], training=False).numpy()
    assert np.abs(FUNCTIONS[name](x.double().numpy()) - right).max() < 2e-6


def test_accumulators_and_floats_without_bounds(case_of, draft, tmp_path):
    """A float input of any size: nothing saturates in front of a float layer."""
    d = draft(3, 6, 6)
    d.conv(4)
    d.same("relu")
    d.global_pool()
    d.flatten()
    d.linear(3)
    case = case_of(d.graph(), [FLOATS, (4, 4)], kind="float", images=6)
    large = (case.images * 1e6).astype(np.float32)
    assert np.isfinite(run(case.program, large)).all()
    assert verify_onnx(
        write_onnx(case.program, tmp_path / "n.onnx"), case.frozen, case.program, large, case.labels, levels=["all"]
    ).ok
