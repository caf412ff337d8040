"""Verification finds what is wrong: flipped bits, float kernels, damaged and foreign files, another network."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from bitsmith.deploy import run, verify_onnx, write_onnx
from bitsmith.deploy.nearness import apart_problems
from bitsmith.deploy.simulation import simulate
from bitsmith.errors import VerifyError


@pytest.fixture(scope="module")
def mixed(case_of, residual):
    """Every kind of weights: 8 bits, straddling widths, one bit."""
    return case_of(residual, [(8, 8), (3, 4), (1, 4), (2, 8), (5, 2), (7, 8), (8, 8)], images=60)


@pytest.fixture
def path(mixed, tmp_path):
    return write_onnx(mixed.program, tmp_path / "network.onnx")


def verify(case, path, **options):
    return verify_onnx(path, case.frozen, case.program, case.images, case.labels, **options)


def flip(path, name, byte, bit):
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    data = bytearray(tensor.raw_data)
    data[byte] ^= 1 << bit
    tensor.raw_data = bytes(data)
    onnx.save(model, path)


def test_accuracies_are_those_of_plain_inference(mixed, path):
    labels = mixed.labels
    found = verify(mixed, path)
    assert found.ok
    assert found.first_difference is None
    with torch.no_grad():
        mean, std = (torch.tensor(v)[:, None, None] for v in (mixed.blueprint.input.mean, mixed.blueprint.input.std))
        predicted = mixed.frozen((torch.from_numpy(mixed.images).float() / 255 - mean) / std).argmax(1).numpy()
    assert found.accuracy_simulation == pytest.approx((predicted == labels).mean())
    assert set(found.accuracy_onnxruntime.values()) == {found.accuracy_reference}


@pytest.mark.parametrize("layer", range(7))
def test_a_flipped_weight_bit_names_its_layer(layer, mixed, path):
    spec = mixed.blueprint.graph.layers[layer]
    bits = mixed.blueprint.bits[spec.name].weight
    place = (spec.weights - 1) * bits  # the least bit of the last weight
    flip(path, f"{spec.name}.{'weight' if bits == 8 else 'packed'}", place // 8, place % 8)
    found = verify(mixed, path, levels=["all"])
    assert not found.ok
    assert found.first_difference == spec.name
    assert f"layer {spec.name!r}: 1 of its {spec.weights} stored weights" in found.problems[0]


@pytest.mark.parametrize(("part", "kind"), [("half", "scale"), ("stored_bias", "bias")])
def test_a_flipped_bit_of_a_channel_names_its_layer(part, kind, mixed, path):
    name = mixed.blueprint.graph.layers[3].name
    flip(path, f"{name}.{part}", 4, 0)
    found = verify(mixed, path)
    assert found.first_difference == name
    assert all(kind in problem for problem in found.problems)


def weight_types(path):
    model = onnx.load(path)
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    zeros = [node.input[5] for node in model.graph.node if node.op_type == "QLinearConv"]
    stored = [kind for name, kind in constants.items() if name.endswith(".weight")]
    return [constants[name] for name in zeros], stored


def test_a_file_for_vnni_has_int8_weights_and_says_so(mixed, path, tmp_path):
    assert mixed.program.unsigned
    everywhere, stored = weight_types(path)
    assert TensorProto.UINT8 in everywhere
    assert TensorProto.UINT8 in stored
    fast = write_onnx(replace(mixed.program, vnni=True), tmp_path / "vnni.onnx")
    everywhere, stored = weight_types(fast)
    assert set(everywhere) == set(stored) == {TensorProto.INT8}
    found = verify(mixed, fast)  # what it is for, verification reads in it
    assert found.vnni
    assert not verify(mixed, path).vnni
    flags = Path("/proc/cpuinfo")
    if flags.exists() and "vnni" in flags.read_text():
        assert found.ok
    else:
        assert found.ok or "export without --vnni if this machine is another" in found.problems[-1]


def test_a_wrong_file_for_vnni_names_its_layer_and_its_cpu(mixed, tmp_path):
    fast = write_onnx(replace(mixed.program, vnni=True), tmp_path / "vnni.onnx")
    name = mixed.blueprint.graph.layers[0].name
    flip(fast, f"{name}.weight", 0, 0)
    found = verify(mixed, fast, levels=["all"])
    assert found.first_difference == name
    assert f"layer {name!r}: 1 of its" in found.problems[0]
    assert found.problems[-1].startswith("the file is for x86 with VNNI;")


def test_padding_bits_mean_nothing(draft, case_of, tmp_path):
    d = draft(1, 5, 5)
    d.conv(3, 1)
    d.global_pool()
    d.flatten()
    case = case_of(d.graph(), (3, 4))
    path = write_onnx(case.program, tmp_path / "n.onnx")
    flip(path, f"{case.blueprint.graph.layers[0].name}.packed", 1, 7)  # 9 of 16 bits are used
    assert verify(case, path).ok


def test_outputs_alone_can_differ(mixed, path):
    """A change that no stored parameter shows: a clip in the middle."""
    model = onnx.load(path)
    clips = [node for node in model.graph.node if node.op_type == "Clip" and "conv" in node.output[0]]
    clip = next(node for node in clips if ":" not in node.output[0])  # of a convolution itself, not of what it reads
    model.graph.initializer.append(helper.make_tensor("one", TensorProto.UINT8, [], [1]))
    clip.input[2] = "one"
    onnx.save(model, path)
    found = verify(mixed, path)
    assert not found.ok
    assert found.first_difference == clip.output[0].removesuffix(".y")
    assert "outputs differ" in found.problems[0]


def test_a_float_convolution_is_reported(mixed, path):
    model = onnx.load(path)
    nodes = model.graph.node
    at, node = next((i, node) for i, node in enumerate(nodes) if node.op_type == "QLinearConv")
    x, x_step, x_zero, w, w_scale, _, y_step, y_zero, bias = node.input
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    make = helper.make_node
    model.graph.initializer.append(helper.make_tensor("f.shape", TensorProto.INT64, [3], [-1, 1, 1]))
    model.graph.initializer.append(helper.make_tensor("f.low", TensorProto.FLOAT, [], [0.0]))
    model.graph.initializer.append(helper.make_tensor("f.high", TensorProto.FLOAT, [], [255.0]))
    replacement = [
        *(make("Cast", [a], [f"f.{b}"], to=TensorProto.FLOAT) for a, b in ((x, "x"), (x_zero, "z"), (w, "w"))),
        *(make("Cast", [a], [f"f.{b}"], to=TensorProto.FLOAT) for a, b in ((bias, "b"), (y_zero, "yz"))),
        make("Sub", ["f.x", "f.z"], ["f.c"]),
        make("Conv", ["f.c", "f.w", "f.b"], ["f.s"], name=node.name, **attributes),
        make("Mul", [w_scale, x_step], ["f.a"]),
        make("Div", ["f.a", y_step], ["f.d"]),
        make("Reshape", ["f.d", "f.shape"], ["f.m"]),
        make("Mul", ["f.s", "f.m"], ["f.p"]),
        make("Round", ["f.p"], ["f.r"]),
        make("Add", ["f.r", "f.yz"], ["f.o"]),
        make("Clip", ["f.o", "f.low", "f.high"], ["f.q"]),
        make("Cast", ["f.q"], list(node.output), to=TensorProto.UINT8),
    ]
    rest = [*nodes[:at], *replacement, *nodes[at + 1 :]]
    del nodes[:]
    nodes.extend(rest)
    onnx.save(model, path)
    found = verify(mixed, path)
    assert found.float_layers == 1
    assert found.integer_layers == len(mixed.program.weighted) - 1
    assert f"layer {node.name!r} did not run as an integer kernel" in found.problems
    assert any("ran in floating point: " in problem for problem in found.problems)


def test_another_simulation_is_noticed(mixed, case_of, residual, path):
    other = case_of(residual, (4, 4), seed=9, images=1)
    found = verify_onnx(path, other.frozen, mixed.program, mixed.images, mixed.labels, levels=["all"])
    assert found.agreement < 0.9
    assert "simulation and reference predict different classes" in found.problems[0]


@pytest.mark.parametrize(
    ("near", "many", "parts", "problem"),
    [
        (True, 3, False, None),
        (False, 3, False, None),
        (False, 12, False, "different classes on 12 of 1000 images, more than 1.0%"),
        (True, 3, True, "from the same input"),
        (False, 3, True, "different classes on 3 of 1000 images, more than 0.1%, ties"),
    ],
)
def test_few_classes_that_roundings_decide_are_no_problem(
    near, many, parts, problem, case_of, residual, path, monkeypatch
):
    """3 of 1,000 another way, however far, as long as no layer parts on these very images.

    A 4-bit network on CIFAR-10 had 6 of 4,000, by 0.0016 of the range; one of 2 and 4 bits 19 by more than 0.01.
    """
    case = case_of(residual, (4, 4), seed=3, images=1000)
    write_onnx(case.program, path)
    reference = run(case.program, case.images)
    width = np.ptp(reference, axis=1)
    best, others = reference.argmax(1), np.sort(reference, axis=1)[:, -2]
    gaps = (reference.max(1) - others) / width
    outputs = reference.copy()
    chosen = np.argsort(gaps)[:many]
    tie = 1.01 * gaps[chosen].max() if near else 0.5 * gaps[chosen].min()
    for n in chosen:
        second = np.flatnonzero(reference[n] == others[n])[0]
        outputs[n, second] = reference[n, best[n]] + 1e-3 * width[n]
    traced = []

    def first_parting(frozen, program, images):
        traced.append(images)
        return ("stem", "layer 'stem': others than the reference's, from the same input") if parts else None

    monkeypatch.setattr("bitsmith.deploy.verify.simulate", lambda *_: outputs)
    monkeypatch.setattr("bitsmith.deploy.verify.first_parting", first_parting)
    monkeypatch.setattr("bitsmith.deploy.nearness.ROUNDED_TIE", tie)  # random weights seldom come nearer
    found = verify_onnx(path, case.frozen, case.program, case.images, case.labels, levels=["all"])
    assert found.agreement == pytest.approx(1 - many / 1000)
    assert (problem in found.problems[0]) if problem else not found.problems
    looked_at = {image.tobytes() for image in traced[0]}
    assert sum(case.images[n].tobytes() in looked_at for n in chosen) >= min(many, 8)


def test_many_classes_that_roundings_decide_are_a_problem():
    reference = np.random.default_rng(0).uniform(0, 0.9, (500, 10)).astype(np.float32)
    reference[:, 3], reference[:, 5] = 1, 0.997
    outputs = reference.copy()
    outputs[:6, 3] = 0.995
    assert "different classes on 6 of 500 images, more than 1.0%" in apart_problems(outputs, reference, "two")[0]
    outputs[5, 3] = 1
    assert apart_problems(outputs, reference, "two") == []


def test_metadata_of_another_network_is_noticed(mixed, path):
    model = onnx.load(path)
    next(entry for entry in model.metadata_props if entry.key == "preprocessing").value = "{}"
    onnx.save(model, path)
    assert [problem for problem in verify(mixed, path).problems if "preprocessing" in problem]


@pytest.mark.parametrize("keep", [0, 1, 100, 0.3, 0.5, 0.9, -1])
def test_a_truncated_file_is_one_clear_error(keep, mixed, path):
    data = path.read_bytes()
    keep = int(len(data) * keep) if 0 < keep < 1 else keep
    path.write_bytes(data[:keep])
    with pytest.raises(VerifyError, match=r"network\.onnx"):
        verify(mixed, path)


def test_files_that_are_no_networks(mixed, path, case_of, draft):
    path.write_bytes(b"\x89PNG\r\n" + bytes(range(256)))
    with pytest.raises(VerifyError, match=r"network\.onnx"):
        verify(mixed, path)
    with pytest.raises(VerifyError, match="can't read"):
        verify(mixed, path.with_name("none.onnx"))
    d = draft(3, 12, 12)
    d.conv(5)
    d.flatten()
    write_onnx(case_of(d.graph()).program, path)
    with pytest.raises(VerifyError, match="of another network"):
        verify(mixed, path)


def test_no_images_or_labels(mixed, path):
    with pytest.raises(VerifyError, match="0 and 60"):
        verify_onnx(path, mixed.frozen, mixed.program, mixed.images[:0], mixed.labels)
    assert np.isfinite(verify(mixed, path, levels=["all"]).agreement)


def spoiled(case, change, at=2):
    """The frozen network with one layer's torch numbers changed, its integers left as they are."""
    frozen = copy.deepcopy(case.frozen)
    name = case.blueprint.graph.layers[at].name
    change(frozen.layer(name))
    return frozen, name


def scale(layer):
    layer.weight *= 1.1


def shift(layer):
    layer.bias[1] += 0.3 * layer.bias.abs().max() + 0.1


def permute(layer):
    order = torch.arange(len(layer.weight))
    order[[1, 2]] = order[[2, 1]]
    layer.weight.copy_(layer.weight[order])
    layer.bias.copy_(layer.bias[order])


@pytest.mark.parametrize("at", [0, 3, 6])
@pytest.mark.parametrize("change", [scale, shift, permute])
def test_a_layer_of_the_simulation_that_computes_something_else_is_named(change, at, mixed, path):
    frozen, name = spoiled(mixed, change, at)
    found = verify_onnx(path, frozen, mixed.program, mixed.images, mixed.labels, levels=["all"])
    assert found.parted_layer == name
    assert [problem for problem in found.problems if f"layer {name!r}" in problem and "simulation" in problem]
    assert found.first_difference is None


class Changed(torch.nn.Module):
    """A network whose outputs are a times as large, plus b."""

    def __init__(self, network, a, b):
        super().__init__()
        self.network, self.graph, self.a, self.b = network, network.graph, a, b
        self.gain, self.offset = network.gain, network.offset

    def layer(self, name):
        return self.network.layer(name)

    def forward(self, x):
        return self.network(x) * self.a + self.b


@pytest.mark.parametrize("outputs", [1, 5])
@pytest.mark.parametrize(("a", "b"), [(1.5, 0), (1, 0.1)])
def test_outputs_in_the_same_order_but_elsewhere_are_noticed(a, b, outputs, draft, case_of, tmp_path):
    """Neither shows in a class, nor in any layer by itself."""
    d = draft(3, 12, 12)
    d.conv(8)
    d.same("relu")
    d.global_pool()
    d.flatten()
    d.linear(outputs)
    case = case_of(d.graph(), (8, 8), dead_gain=False)
    path = write_onnx(case.program, tmp_path / "n.onnx")
    size = float(np.ptp(run(case.program, case.images)))
    assert verify(case, path, levels=["all"], trained=case.trained).ok
    other = Changed(case.frozen, a, b * size)
    found = verify_onnx(path, other, case.program, case.images, case.labels, levels=["all"])
    assert found.agreement == 1
    assert found.parted_layer is None
    assert "of their range apart" in found.problems[0]


def test_maps_are_compared_place_by_place(draft, case_of, tmp_path):
    d = draft(3, 8, 8)
    d.conv(6)
    d.same("relu")
    d.conv(4, 1, norm=False)
    case = case_of(d.graph(), (8, 8))
    path = write_onnx(case.program, tmp_path / "n.onnx")
    labels = run(case.program, case.images).argmax(1)
    found = verify_onnx(path, case.frozen, case.program, case.images, labels, trained=case.trained)
    assert found.ok, found.problems
    assert found.accuracy_reference == 1
    assert set(found.accuracy_onnxruntime.values()) == {1}
    assert found.accuracy_trained > 0.95


def test_the_trained_network_is_looked_at(mixed, path):
    labels = run(mixed.program, mixed.images).argmax(1)

    def score(outputs, labels):
        return float((outputs.argmax(1) == labels).mean())

    found = verify_onnx(
        path, mixed.frozen, mixed.program, mixed.images, labels, trained=mixed.trained, score=score, levels=["all"]
    )
    assert found.ok, found.problems
    assert found.agreement_trained > 0.95
    assert found.apart_trained < 0.05
    assert found.score_trained == found.accuracy_trained
    assert verify(mixed, path, levels=["all"]).agreement_trained is None


def test_a_freezing_that_changes_the_network_is_noticed(mixed, path):
    """As if `freeze` had lost something: another trained network than the one that was frozen and lowered."""
    other = copy.deepcopy(mixed.trained)
    with torch.no_grad():
        for _, layer in other.priced():
            layer.weight.copy_(layer.weight.flip(0))
    predicted = simulate(other, mixed.program, mixed.images, 100).argmax(1)
    found = verify_onnx(path, mixed.frozen, mixed.program, mixed.images, predicted, trained=other, levels=["all"])
    assert found.accuracy_trained == 1
    assert found.agreement_trained < 0.95
    assert "freezing changed the network" in found.problems[0]
    assert found.parted_layer is None


def test_a_trained_network_with_other_outputs_of_the_same_order_is_noticed(mixed, path):
    found = verify(mixed, path, trained=Changed(mixed.trained, 3, 0), levels=["all"])
    assert found.agreement_trained > 0.95
    assert "outputs differ from the trained ones" in found.problems[0]
