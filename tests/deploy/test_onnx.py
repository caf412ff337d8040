"""Files on disk: bit-identical to the reference at every level of onnxruntime, small, run as integers."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from bitsmith.cost import exact
from bitsmith.deploy import LEVELS, export_onnx, kernels, run, trace, verify_onnx, write_onnx
from bitsmith.deploy.exposed import expose
from bitsmith.deploy.operators import Conv
from bitsmith.deploy.runtime import infer, session
from bitsmith.errors import ExportError


def check(case, tmp_path):
    """Write and verify; the file runs as integers and equals the reference in every bit."""
    path = write_onnx(case.program, tmp_path / "network.onnx")
    found = verify_onnx(path, case.frozen, case.program, case.images, case.labels)
    assert found.problems == ()
    assert set(found.differing_outputs.values()) == {0}
    assert set(found.equal_images.values()) == {len(case.images)}
    assert found.float_layers == 0
    assert found.integer_layers == len(case.program.weighted)
    # A dead network would test nothing: most tensors differ between images (one-bit ends may be constant).
    varied = [(value != value[:1]).any() for value in trace(case.program, case.images).values()]
    assert np.mean(varied) > 0.5
    return path


def chain(d):
    d.conv(6)
    d.same("relu")
    d.conv(7, stride=2, pad=(0, 1, 1, 0))
    d.same("relu")
    d.conv(5, 1, norm=False, name="a.zero")
    d.same("relu")
    d.global_pool()
    d.flatten()
    d.linear(4)


def preactivation(d):
    start = d.conv(6)
    d.same("affine")
    d.same("relu")
    d.conv(6)
    d.same("affine")
    d.same("relu")
    d.same("add", d.conv(6), start)
    d.same("affine")
    d.same("relu6")
    d.global_pool()
    d.flatten()
    d.linear(4)


def mobile(d):
    d.conv(8, stride=2)
    d.same("relu6")
    d.conv(8, groups=8)
    d.same("relu6")
    start = d.conv(6, 1)
    d.conv(12, 1)
    d.same("relu6")
    d.conv(12, groups=12)
    d.same("relu6")
    d.same("add", d.conv(6, 1), start)
    d.conv(10, 1)
    d.same("relu6")
    d.global_pool()
    d.same("dropout", rate=0.2)
    d.flatten()
    d.linear(4)


def pools(d):
    d.conv(6)
    d.pool("max_pool", 3, 2, (1, 1, 0, 0))
    d.same("relu")
    d.conv(6)
    d.pool("avg_pool", 2, 2, 1)
    d.same("relu")
    d.conv(4, norm=False)
    d.pool("max_pool", 2, 1, 1)
    d.flatten()


def features(d):
    d.flatten()
    d.linear(12, norm=True)
    d.same("relu")
    d.linear(9)
    d.same("affine")
    d.same("relu6")
    d.linear(4)


def ends_in_a_stream(d):
    d.conv(6)
    d.same("relu")
    d.global_pool()
    d.flatten()
    d.linear(6)
    d.same("relu6")


def ends_in_a_pool(d):
    d.conv(6)
    d.same("relu")
    d.conv(5, 1)
    d.same("relu")
    d.global_pool()
    d.flatten()


def clips_apart(d):
    other = d.conv(5)
    apart = d.same("relu6", other)
    d.same("add", other, other)
    d.same("add", d.last, apart)
    d.same("relu")
    d.same("relu6")
    d.conv(4)
    d.global_pool()
    d.flatten()


SHAPES = [chain, preactivation, mobile, pools, features, ends_in_a_stream, ends_in_a_pool, clips_apart]


@pytest.mark.parametrize(("bits", "kind"), [((8, 8), "uint8"), ((3, 4), "float"), ((1, 1), "uint8"), ((1, 1), "float")])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_hand_made(shape, bits, kind, draft, case_of, tmp_path):
    d = draft(3, 9, 8)
    shape(d)
    check(case_of(d.graph(), bits, kind=kind), tmp_path)


@pytest.mark.parametrize("quantizer", ["lsq", "gaussian"])
@pytest.mark.parametrize("weight", range(1, 9))
def test_every_width(weight, quantizer, case_of, residual, tmp_path):
    pairs = [(weight, 1 + (weight + 3 * i) % 8) for i in range(len(residual.layers))]
    check(case_of(residual, pairs, quantizer=quantizer, seed=weight), tmp_path)


def test_weights_are_folded_at_load(case_of, residual, tmp_path):
    path = check(case_of(residual, (3, 8)), tmp_path)
    assert kernels(path, "disabled")["BitwiseOr"] == len(residual.layers)
    for level in ("basic", "extended", "all"):
        ran = kernels(path, level)
        assert ran["BitwiseOr"] == ran["BitShift"] == ran["ConstantOfShape"] == 0
        assert ran["QLinearConv"] == len(residual.layers)  # the classifier is not one, the global pool is
        assert ran["MatMulInteger"] == 1


def resnet8(d):
    d.conv(16)
    d.same("relu")
    start = d.last
    d.conv(16)
    d.same("relu")
    d.same("add", d.conv(16), start)
    for filters in (32, 64):
        start = d.same("relu")
        d.conv(filters, stride=2)
        d.same("relu")
        d.same("add", d.conv(filters), d.conv(filters, 1, source=start, stride=2))
    d.same("relu")
    d.global_pool()
    d.flatten()
    d.linear(10)


@pytest.mark.parametrize("bits", [(1, 8), (2, 4), (3, 8), (5, 2), (7, 3), (8, 8), "mixed"])
def test_size_is_the_priced_size_but_for_names(bits, draft, case_of, tmp_path):
    d = draft(3, 32, 32)
    resnet8(d)
    graph = d.graph()
    layers = len(graph.layers)
    case = case_of(graph, [(1 + i % 8, 1 + 3 * i % 8) for i in range(layers)] if bits == "mixed" else bits, images=2)
    path = write_onnx(case.program, tmp_path / "resnet8.onnx")
    priced = exact("size", graph, case.blueprint.bits)
    assert path.stat().st_size <= 1.03 * priced + 1000 * layers + 256
    model = onnx.load(path)
    assert model.ir_version == 10
    stored = {t.name: len(t.raw_data) for t in model.graph.initializer}
    for layer in graph.layers:
        b = case.blueprint.bits[layer.name].weight
        name = f"{layer.name}.weight" if b == 8 else f"{layer.name}.packed"
        assert stored[name] == -(-layer.weights * b // 8)


def test_metadata_says_how_to_feed_and_read(case_of, residual, tmp_path):
    case = case_of(residual, (2, 4))
    props = session(export_onnx(case.frozen, case.blueprint, tmp_path / "n.onnx")).get_modelmeta().custom_metadata_map
    assert props["layout"] == "NCHW"
    assert json.loads(props["labels"]) == [f"class {i}" for i in range(5)]
    assert json.loads(props["preprocessing"])["mean"] == [0.48, 0.45, 0.4]
    assert set(map(tuple, json.loads(props["bits"]).values())) == {(2, 4)}


def test_any_batch_and_threads_give_the_same(case_of, residual, tmp_path):
    case = case_of(residual, (4, 3))
    path = write_onnx(case.program, tmp_path / "n.onnx")
    reference = run(case.program, case.images)
    for level in LEVELS:
        assert np.array_equal(infer(session(path, level, threads=2), case.images, batch=7)[0], reference)


def test_writing_is_deterministic_and_leaves_no_crumbs(case_of, residual, tmp_path):
    case = case_of(residual)
    first = write_onnx(case.program, tmp_path / "new" / "n.onnx").read_bytes()
    assert write_onnx(case.program, tmp_path / "new" / "n.onnx").read_bytes() == first
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["n.onnx"]


def test_a_folder_that_is_a_file_is_refused(case_of, residual, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="can't write"):
        write_onnx(case_of(residual).program, tmp_path / "file" / "n.onnx")


def test_sums_beyond_32_bits_are_refused(case_of, residual, tmp_path):
    program = case_of(residual).program
    victim = program.weighted[2]
    assert isinstance(victim, Conv)
    wide = replace(victim, sums=replace(victim.sums, bias=np.full_like(victim.sums.bias, 2**31 - 5)))
    program = replace(program, operators=tuple(wide if o is victim else o for o in program.operators))
    with pytest.raises(ExportError, match=f"{victim.layer}.*beyond 32 bits"):
        write_onnx(program, tmp_path / "n.onnx")
    assert not (tmp_path / "n.onnx").exists()


@pytest.mark.parametrize("bits", [(7, 8), (8, 4), (8, 8), "filters"])
def test_no_two_products_with_int8_weights_pass_16_bits(bits, case_of, residual, tmp_path):
    """Where they could, x86 machines without VNNI saturate; there the weights are uint8, on every machine."""
    if bits == "filters":
        bits = [(tuple(8 if i % 2 else 3 for i in range(layer.out_channels)), 8) for layer in residual.layers]
    case = case_of(residual, bits)
    path = check(case, tmp_path)
    shown = session(expose(onnx.load(path), case.program, path), "all", threads=1)
    values = dict(zip([o.name for o in shown.get_outputs()], infer(shown, case.images, batch=40), strict=True))
    layers, signed = [o for o in case.program.weighted if o.sums.folded is not None], 0
    for operator in layers:
        weight = values[f"{operator.sums.owner}.weight.exposed"]
        top = case.program.grids[operator.inputs[0]].top
        if weight.dtype == np.int8:
            signed += 1
            assert 2 * int(np.abs(weight.astype(int)).max()) * top <= 32767
        else:
            assert weight.dtype == np.uint8
            assert (weight.astype(int) - 128 == operator.sums.weight).all()
    wide = len(case.program.unsigned)
    assert signed == len(layers) - wide
    assert wide == (0 if bits in ((7, 8), (8, 4)) else len(layers))
