"""Files of networks whose filters and maps differ in bits, some filters removed: equal to the reference to the bit."""

import dataclasses
import math

import numpy as np
import onnx
import pytest

from bitsmith.blueprint import Bits, Blueprint, prune
from bitsmith.cost import exact
from bitsmith.cost.layout import order_bytes
from bitsmith.deploy import LEVELS, verify_onnx, write_onnx
from bitsmith.deploy.operators import Table
from bitsmith.deploy.packing import pack_layer

RNG = np.random.default_rng(0)


def mixed(count: int, few: tuple[int, ...], seed: int = 0) -> tuple[int, ...]:
    """As many bit-widths, all of `few` among them."""
    rng = np.random.default_rng(seed)
    return tuple(rng.permutation([*few, *rng.choice(few, max(0, count - len(few)))])[:count].tolist())


def check(case, tmp_path):
    path = write_onnx(case.program, tmp_path / "network.onnx")
    found = verify_onnx(path, case.frozen, case.program, case.images, case.labels)
    assert found.problems == ()
    assert set(found.differing_outputs) == set(LEVELS)
    assert set(found.differing_outputs.values()) == {0}
    assert found.float_layers == 0
    return path


def bits_of(graph, weight, activation):
    return [
        (mixed(layer.out_channels, weight, i), mixed(layer.in_channels, activation, i + 50))
        for i, layer in enumerate(graph.layers)
    ]


def wide(d):
    """Channels enough for every bit-width, direct edges, a stream, a pool between, a flattened input."""
    d.conv(9)
    d.same("relu")
    d.pool("max_pool", 2, 2)
    d.conv(10)
    start = d.same("relu")
    d.conv(10)
    d.same("add", d.last, start)
    d.same("hard_swish")
    d.conv(10, groups=10)
    d.conv(8, 1, stride=2, norm=False)
    d.same("relu")
    d.flatten()
    d.linear(6)


@pytest.mark.parametrize("quantizer", ["lsq", "lsq-pow2"])
@pytest.mark.parametrize("weight", [tuple(range(1, 9)), (2, 4, 8), (1, 2)])
def test_files_equal_the_reference(weight, quantizer, draft, case_of, tmp_path):
    d = draft(3, 12, 12)
    wide(d)
    case = case_of(d.graph(), bits_of(d.graph(), weight, (1, 2, 4, 8)), quantizer=quantizer)
    assert any(isinstance(o, Table) and o.table.ndim == 2 for o in case.program.operators)
    check(case, tmp_path)


@pytest.mark.parametrize("quantizer", ["pact", "gaussian"])
def test_other_quantizers_with_dead_filters_on_odd_grids(quantizer, draft, case_of, tmp_path):
    d = draft(3, 12, 12)
    wide(d)
    bits = [(weight, 4) for weight, _ in bits_of(d.graph(), (1, 3, 8), (4,))]
    case = case_of(d.graph(), bits, quantizer=quantizer)
    folded = [o.sums.folded for o in case.program.weighted]
    assert any(pack_layer(part).silent for f in folded for _, part in f.parts() if part.bits != 8)
    check(case, tmp_path)


def test_every_filter_is_stored_at_its_bits(draft, case_of, tmp_path):
    """The streams and int8 weights of the file hold n b / 8 bytes for each bit-width, and nothing else does."""
    d = draft(3, 12, 12)
    wide(d)
    case = case_of(d.graph(), bits_of(d.graph(), tuple(range(1, 9)), (8,)))
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(check(case, tmp_path)).graph.initializer}
    for layer in d.graph().layers:
        bits = case.blueprint.bits[layer.name]
        each = layer.weights // layer.out_channels
        for width in range(1, 9):
            count = bits.filters(layer).count(width) * each
            name = f"{layer.name}.weight8" if width == 8 else f"{layer.name}.packed{width}"
            assert stored[name].nbytes == math.ceil(count * width / 8) if count else name not in stored
        assert stored[f"{layer.name}.places"].nbytes == layer.out_channels


def test_filters_in_order_need_no_places(draft, case_of, tmp_path):
    """Neither the file nor the priced size has them; maps go with the filters that make them."""
    d = draft(3, 12, 12)
    wide(d)
    graph, bits = d.graph(), {}
    for layer, (weight, activation) in zip(graph.layers, bits_of(graph, (1, 2, 4, 8), (2, 8)), strict=True):
        bits[layer.name] = Bits(weight=weight, activation=activation)
    pruned = prune(Blueprint(graph=graph, bits=bits)).blueprint
    case = case_of(pruned.graph, [(b.weight, b.activation) for b in pruned.bits.values()])
    stored = {t.name for t in onnx.load(check(case, tmp_path)).graph.initializer}
    out_of_order = [layer for layer in graph.layers if f"{layer.name}.places" in stored]
    assert 0 < len(out_of_order) < len(graph.layers)  # what is added to the sum's first operand, the classifier
    for layer in graph.layers:
        assert order_bytes(layer, pruned.bits[layer.name]) == (layer.out_channels if layer in out_of_order else 0)


def test_size_is_within_the_bound(draft, case_of, tmp_path):
    """Priced size + 3 % + 1 kB for every priced layer + 250 B for every further bit-width of its filters."""
    d = draft(3, 12, 12)
    wide(d)
    for weight, activation in (((2, 4, 8), (8,)), (tuple(range(1, 9)), (2, 4, 8))):
        case = case_of(d.graph(), bits_of(d.graph(), weight, activation))
        size = check(case, tmp_path).stat().st_size
        priced = exact("size", case.blueprint.graph, case.blueprint.bits)
        further = sum(len(bits.weight_widths) - 1 for bits in case.blueprint.bits.values())
        assert priced <= size <= 1.03 * priced + 1000 * len(d.graph().layers) + 250 * further


def test_a_flipped_bit_of_one_filter_is_found(draft, case_of, tmp_path, full):
    d = draft(3, 12, 12)
    wide(d)
    case = case_of(d.graph(), bits_of(d.graph(), (2, 4, 8), (2, 8)))
    path = check(case, tmp_path)
    model = onnx.load(path)
    names = [t.name for t in model.graph.initializer if ".packed" in t.name or t.name.endswith((".places", "weight8"))]
    assert len(names) > 8
    for name in names if full else names[::4]:
        broken = onnx.ModelProto()
        broken.CopyFrom(model)
        (tensor,) = [t for t in broken.graph.initializer if t.name == name]
        values = bytearray(tensor.raw_data)
        if name.endswith(".places"):
            values[0], values[1] = values[1], values[0]
        else:
            values[0] ^= 1
        tensor.raw_data = bytes(values)
        onnx.save(broken, tmp_path / "broken.onnx")
        found = verify_onnx(tmp_path / "broken.onnx", case.frozen, case.program, case.images, case.labels)
        assert found.first_difference == name.rpartition(".")[0]


def test_a_wrong_map_is_found(draft, case_of, tmp_path):
    """The reference narrows maps as the simulation does: another table for one map parts them at that layer."""
    d = draft(3, 12, 12)
    wide(d)
    case = case_of(d.graph(), bits_of(d.graph(), (4,), (2, 8)))
    operators = list(case.program.operators)
    place = next(i for i, o in enumerate(operators) if isinstance(o, Table) and o.table.ndim == 2)
    table = operators[place].table[[1, 0, *range(2, len(operators[place].table))]]
    assert not np.array_equal(table, operators[place].table)
    operators[place] = dataclasses.replace(operators[place], table=table)
    program = dataclasses.replace(case.program, operators=tuple(operators))
    found = verify_onnx(write_onnx(program, tmp_path / "n.onnx"), case.frozen, program, case.images, case.labels)
    assert found.problems
    assert any(f"layer {operators[place].layer!r}" in problem for problem in found.problems)
