"""QONNX files, run by the package qonnx: the reference's numbers, to the bit with steps that are powers of two."""

import dataclasses

import numpy as np
import onnx
import pytest

from bitsmith.deploy import run
from bitsmith.deploy.operators import Conv, StoredGrid, Table
from bitsmith.deploy.qonnx import all_exact, check_streamlining, to_qonnx, verify_qonnx, write_qonnx
from bitsmith.deploy.qonnx.finn import first_half
from bitsmith.errors import ExportError, VerifyError

pytest.importorskip("qonnx", reason="qonnx isn't installed: pip install 'bitsmith[qonnx]'")


def check(case, folder):
    path = write_qonnx(case.program, case.blueprint.graph, folder / "n.qonnx.onnx")
    found = verify_qonnx(path, case.program, case.images, case.labels)
    assert found.problems == ()
    assert found.exact == all_exact(case.program)
    return path, found


def mixed(graph):
    """Every bit-width somewhere, of filters and of maps."""
    return [
        (tuple(1 + (f + 3 * i) % 8 for f in range(la.out_channels)), tuple(1 + m % 4 for m in range(la.in_channels)))
        for i, la in enumerate(graph.layers)
    ]


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_powers_of_two_are_exact(kind, residual, case_of, tmp_path):
    """BatchNorm's gain makes scales that are none; steps alone have to be."""
    case = case_of(residual, mixed(residual), quantizer="lsq-pow2", kind=kind)
    _, found = check(case, tmp_path)
    assert found.exact
    assert (found.differing_outputs, found.equal_images, found.neighbors) == (0, len(case.images), 0)
    assert found.compared > 10_000


@pytest.mark.parametrize(("quantizer", "bits"), [("lsq", (4, 3)), ("gaussian", (1, 2)), ("gaussian", (3, 8))])
def test_other_steps_are_counted(quantizer, bits, residual, case_of, tmp_path):
    case = case_of(residual, bits, quantizer=quantizer)
    _, found = check(case, tmp_path)
    assert not found.exact
    assert found.neighbors <= found.compared / 1000
    assert found.agreement >= 0.97  # one of 40 images


def test_weights_say_their_bits(residual, case_of, tmp_path):
    """One Quant for each bit-width of a layer's filters, of codes that it leaves as they are."""
    case = case_of(residual, mixed(residual), quantizer="lsq-pow2", dead_gain=False)
    model = onnx.load(check(case, tmp_path)[0])
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for layer in residual.layers:
        filters = case.blueprint.bits[layer.name].weight
        nodes = [node for node in model.graph.node if node.input[0].startswith(f"{layer.name}.weight.values")]
        held = {1 if node.op_type == "BipolarQuant" else int(constants[node.input[3]]) for node in nodes}
        assert held == set(filters)
        assert len(nodes) == len(held)
    assert {entry.key: entry.value for entry in model.metadata_props}["layout"] == "NCHW"
    (annotation,) = model.graph.quantization_annotation
    assert annotation.quant_parameter_tensor_names[0].value == "UINT8"


def edited(path, name, change):
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    change(values)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, path)


@pytest.mark.parametrize("kind", ["weight.values", "bias", "scale"])
def test_a_wrong_constant_names_its_layer(kind, residual, case_of, tmp_path):
    case = case_of(residual, (4, 4), dead_gain=False)
    layer = residual.layers[2].name
    path, _ = check(case, tmp_path)

    def change(values):
        flat = values.reshape(-1)
        flat[np.flatnonzero(flat)[0]] *= -1

    edited(path, f"{layer}.{kind}", change)
    found = verify_qonnx(path, case.program, case.images, case.labels)
    assert found.first_difference == layer
    assert not found.ok


def test_a_wrong_step_names_its_layer(residual, case_of, tmp_path):
    case = case_of(residual, (4, 4), quantizer="lsq-pow2")
    path, _ = check(case, tmp_path)
    model = onnx.load(path)
    layer = case.program.operators[1].name
    node = next(node for node in model.graph.node if node.output[0] == f"{layer}.y")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(3), "three"))
    node.input[3] = "three"  # bits
    onnx.save(model, path)
    assert verify_qonnx(path, case.program, case.images, case.labels).first_difference == layer


def test_what_is_no_file_of_bitsmith(residual, case_of, tmp_path):
    case = case_of(residual, (4, 4), images=2)
    path, _ = check(case, tmp_path)
    with pytest.raises(VerifyError, match="needs images"):
        verify_qonnx(path, case.program, case.images[:0], case.labels[:0])
    with pytest.raises(VerifyError, match="can't read"):
        verify_qonnx(tmp_path / "none.onnx", case.program, case.images, case.labels)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(VerifyError, match=r"truncated|damaged"):
        verify_qonnx(path, case.program, case.images, case.labels)


def test_levels_that_no_quant_node_has(residual, case_of):
    case = case_of(residual, (4, 4), images=2)
    name = next(operator.name for operator in case.program.operators if isinstance(operator, Conv))
    odd = StoredGrid(step=np.float32(1), zero_point=0, top=11)
    program = dataclasses.replace(case.program, grids={**case.program.grids, name: odd})
    with pytest.raises(ExportError, match=r"levels 0..11, which no Quant node has"):
        to_qonnx(program, residual)


def test_finn_takes_learned_steps_and_names_what_it_refuses(residual, case_of):
    plain = case_of(residual, (4, 4), images=2)
    check_streamlining(plain.program)
    halves = case_of(residual, (4, 4), quantizer="lsq-pow2", images=2, dead_gain=False, change=unit_gains)
    with pytest.raises(ExportError, match=r"in channel \d of layer '.*' a sum of -?\d+ lies on a half"):
        check_streamlining(halves.program)
    with pytest.raises(ExportError, match=r"zero point of -1/2"):
        check_streamlining(case_of(residual, (3, 4), quantizer="gaussian", images=2).program)
    with pytest.raises(ExportError, match=r"differ in bits.*and \d+ more"):
        check_streamlining(case_of(residual, mixed(residual), images=2).program)
    with pytest.raises(ExportError, match=r"has constant filters \(1\), and its weights have no zero"):
        check_streamlining(case_of(residual, (1, 4), images=2).program)  # a gain of zero
    add = next(operator for operator in plain.program.operators if len(operator.inputs) == 2)
    other = dataclasses.replace(plain.program.grids[add.inputs[0]], step=np.float32(0.3))
    with pytest.raises(ExportError, match=rf"{add.name!r} joins tensors of 2 scales"):
        check_streamlining(dataclasses.replace(plain.program, grids={**plain.program.grids, add.inputs[0]: other}))


def unit_gains(network):
    """No BatchNorm: scales are powers of two, and sums lie on halves."""
    for _, layer in network.priced():
        if layer.norm is not None:
            layer.norm.weight.fill_(1.0)
            layer.norm.momentum = 0.0
            layer.norm.running_var.fill_(1.0 - layer.norm.eps)


@pytest.mark.parametrize("unit", [0.25, 0.3, 0.75, 1.0, 2.5])
@pytest.mark.parametrize("low", [0, -8])
def test_thresholds_against_every_sum(unit, low):
    """Counting the thresholds that a sum has reached is rounding it half to even, but where they say that it isn't."""
    unit, sums, levels = np.float32(unit), np.arange(-200, 201), np.arange(low + 1, low + 16)
    rounded = np.clip(np.rint(sums * np.float64(unit)), low, low + 15)
    thresholds = np.ceil((levels - 0.5) / np.float64(unit))
    counted = (sums[:, None] >= thresholds).sum(1) + low
    parted = sums[rounded != counted]
    assert first_half(unit, levels, 200) == (None if not len(parted) else parted[0])


def test_every_table_of_maps_is_narrowed_by_quants_of_its_own(residual, case_of, tmp_path):
    case = case_of(residual, mixed(residual), quantizer="lsq-pow2", images=4)
    assert any(isinstance(operator, Table) and operator.table.ndim == 2 for operator in case.program.operators)
    _, found = check(case, tmp_path)
    assert np.isfinite(run(case.program, case.images)).all()
    assert found.ok
