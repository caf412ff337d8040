"""TFLite files of int8: what LiteRT's two kinds of kernels make of them, what is refused, and what Vela says."""

from __future__ import annotations

import graphs
import numpy as np
import pytest

from bitsmith.cost import TARGETS
from bitsmith.deploy.reference import run
from bitsmith.errors import ExportError, VerifyError

pytest.importorskip("ai_edge_litert")

from bitsmith.deploy.tflite import compile_with_vela, verify_tflite, write_tflite


def low(graph, weight_bits=(2, 8, 3, 5, 1, 4)):
    return [(weight_bits[i % len(weight_bits)], 8) for i in range(len(graph.layers))]


def squeezed() -> graphs.NetworkGraph:
    """A product, a concat of unlike scales, a bounded ReLU, depthwise layers, odd padding, pools, a linear on maps."""
    s = graphs.Sketch((3, 9, 8))
    y = s.same("relu6", "r1", s.window("conv", "a", "x", 6, 3, 2, padding=(0, 1, 2, 1)))
    y = s.same("relu6", "r2", s.put("conv", "dw", (6, 5, 4), y, groups=6, kernel=(3, 3), padding=(1,) * 4))
    b = s.same("relu", "r3", s.conv("b", y, 4))
    y = s.concat("cat", y, s.conv("c", b, 2), b)
    y = s.same("multiply", "mul", y, s.same("relu", "r4", s.conv("d", y, 12)))
    y = s.window("max_pool", "m", y, 12, 3, 2, padding=(1, 1, 1, 1))
    y = s.window("avg_pool", "v", s.conv("e", s.pad("p", y, (1, 0, 0, 1)), 8), 8, 2, 1)
    y = s.window("conv", "one", y, 5, 3, 4, padding=(1, 1, 1, 1))  # one window whose stride would move it beyond
    y = s.same("relu", "r5", s.linear("fc1", s.flatten("flat", s.concat("cat2", y, y)), 9))
    return s.graph(s.linear("fc", y, 4))


def flattened() -> graphs.NetworkGraph:
    """Maps of several pixels, flattened by channel here and by pixel there, through a function to a linear layer."""
    s = graphs.Sketch((2, 6, 5))
    y = s.flatten("flat", s.same("relu", "r1", s.conv("a", "x", 7)))
    y = s.same("add", "sum", s.linear("b", s.same("relu", "r2", s.linear("fc1", y, 9)), 9), s.linear("c", y, 9))
    return s.graph(s.linear("fc", y, 4))


@pytest.mark.parametrize("graph", [graphs.residual, squeezed, flattened], ids=lambda graph: graph.__name__)
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_each_operator_is_ours_or_one_level_from_it(graph, kind, case_of, tmp_path):
    case = case_of(graph(), low(graph()), kind=kind)
    assert TARGETS["ethos-u"].refused(case.blueprint.graph) == []
    path = write_tflite(case.program, tmp_path / "n.tflite", case.images)
    found = verify_tflite(path, case.program, case.images, case.labels)
    assert found.problems == ()
    different, size = found.differing["reference"]
    assert different < 0.02 * size
    sums = [gap for gap in found.operators if gap.operator in {o.name for o in case.program.weighted}]
    assert sum(gap.differing["xnnpack"] for gap in sums) == 0  # float32 factors, halves to even
    assert found.agreement > 0.95
    assert found.integer_layers == len(case.program.summing)


def test_the_output_is_the_logits_on_an_int8_grid(case_of, tmp_path):
    case = case_of(graphs.residual(), (8, 8))
    path = write_tflite(case.program, tmp_path / "n.tflite", case.images)
    found = verify_tflite(path, case.program, case.images, case.labels, score=lambda outputs, labels: outputs.shape[1])
    assert found.largest_difference["xnnpack"] == 0
    assert found.equal_images["xnnpack"] == len(case.images)
    assert found.score == run(case.program, case.images).shape[1]
    assert path.read_bytes() == write_tflite(case.program, tmp_path / "again.tflite", case.images).read_bytes()


def test_a_flipped_weight_and_a_moved_step_are_found_in_their_layer(case_of, tmp_path):
    case = case_of(graphs.residual(), (4, 8))
    path = write_tflite(case.program, tmp_path / "n.tflite", case.images)
    data = path.read_bytes()
    layer = case.program.weighted[2]
    stored = np.ascontiguousarray(layer.sums.weight.transpose(0, 2, 3, 1)).tobytes()
    assert data.count(stored) == 1
    at = data.index(stored)
    path.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
    found = verify_tflite(path, case.program, case.images, case.labels)
    assert not found.ok
    assert f"layer {layer.layer!r}: its stored weight is not the network's" in found.problems
    assert found.first_difference == layer.layer
    step = np.float32(case.program.grids[layer.name].step).tobytes()
    path.write_bytes(data.replace(step, np.float32(1.5 * case.program.grids[layer.name].step).tobytes()))
    assert not verify_tflite(path, case.program, case.images, case.labels).ok


def test_files_that_are_none_are_one_message(case_of, tmp_path):
    case, other = case_of(graphs.residual(), (8, 8)), case_of(squeezed(), (8, 8))
    path = write_tflite(case.program, tmp_path / "n.tflite")  # the range of noise
    data = path.read_bytes()
    with pytest.raises(VerifyError, match="of another network"):
        verify_tflite(path, other.program, other.images, other.labels)
    for content, words in ((b"", "not a TFLite file"), (data[:4] + b"TFL3" + data[8:300], "can't load")):
        path.write_bytes(content)
        with pytest.raises(VerifyError, match=words):
            verify_tflite(path, case.program, case.images, case.labels)
    with pytest.raises(VerifyError, match="can't read"):
        verify_tflite(tmp_path / "none", case.program, case.images, case.labels)
    with pytest.raises(VerifyError, match="needs images"):
        verify_tflite(path, case.program, case.images[:0], case.labels[:0])


def refused(op):
    s = graphs.Sketch((4, 8, 8))
    y = s.conv("first", "x", 8)
    if op == "grouped conv":
        y = s.put("conv", "it", (8, 8, 8), y, groups=2)
    elif op == "reflect pad":
        y = s.pad("it", y, (1, 1, 1, 1), "reflect")
    elif op == "shuffle":
        y = s.put("shuffle", "it", (8, 8, 8), y, groups=2)
    elif op == "split":
        y = s.split("it", y, 0, 4)
    else:
        y = s.same(op, "it", y)
    return s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 3))


@pytest.mark.parametrize("op", ["grouped conv", "reflect pad", "shuffle", "split", "silu", "tanh"])
def test_what_is_refused_is_refused_by_the_target_too(op, case_of, tmp_path):
    case = case_of(refused(op), (8, 8), images=4)
    with pytest.raises(ExportError, match=r"layer 'it' can't be written to TFLite"):
        write_tflite(case.program, tmp_path / "n.tflite")
    assert not list(tmp_path.iterdir())
    (text,) = TARGETS["ethos-u"].refused(case.blueprint.graph)
    assert text.startswith(f"{op} at 'it'")


def test_fewer_bits_of_activations_and_float_layers_are_refused(case_of, tmp_path):
    with pytest.raises(ExportError, match="reads fewer than 8 bits"):
        write_tflite(case_of(graphs.residual(), (8, 4), images=4).program, tmp_path / "n.tflite")
    bits = [(32, 32), *[(8, 8)] * (len(graphs.residual().layers) - 1)]
    with pytest.raises(ExportError, match="has float layers"):
        write_tflite(case_of(graphs.residual(), bits, images=4).program, tmp_path / "n.tflite")


def pooled() -> graphs.NetworkGraph:
    """A pool over the whole map whose stride, which never moves it, is larger than Vela takes."""
    s = graphs.Sketch((3, 8, 8))
    y = s.same("relu", "r2", s.conv("b", s.same("relu", "r1", s.conv("a", "x", 64)), 64))
    y = s.window("avg_pool", "pool", y, 64, 8, 8)
    return s.graph(s.linear("fc", s.flatten("flat", y), 3))


def test_vela_compiles_the_file_and_low_bits_take_less_flash(case_of, tmp_path):
    pytest.importorskip("ethosu")
    reports = {}
    for bits in (2, 8):
        case = case_of(pooled(), (bits, 8), images=2)
        path = write_tflite(case.program, tmp_path / f"{bits}.tflite", case.images)
        reports[bits] = compile_with_vela(path)
    assert reports[8].macs == reports[2].macs
    assert reports[8].macs == 8 * 8 * (3 + 64 * 27 + 64 * 64 * 9 + 64) + 3 * 64  # the input's line first
    assert reports[2].flash < 0.5 * reports[8].flash
    assert reports[2].cpu_operators == 0
    assert reports[2].cycles > 0
    with pytest.raises(ExportError, match="unknown accelerator"):
        compile_with_vela(path, "ethos-u99")
    path.write_bytes(b"nothing")
    with pytest.raises(ExportError, match="Vela can't compile"):
        compile_with_vela(path)


def test_without_litert_it_says_what_to_install(case_of, tmp_path, monkeypatch):
    case = case_of(graphs.residual(), (8, 8), images=2)
    path = write_tflite(case.program, tmp_path / "n.tflite")
    for name in ("ai_edge_litert.schema_py_generated", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ExportError, match=r"pip install 'bitsmith\[tflite\]'"):
        write_tflite(case.program, tmp_path / "m.tflite")
    with pytest.raises(VerifyError, match=r"pip install 'bitsmith\[tflite\]'"):
        verify_tflite(path, case.program, case.images, case.labels)
