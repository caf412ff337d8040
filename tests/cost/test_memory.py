"""The arena plan, checked by running it: a byte that another tensor overwrites too early is noticed."""

import itertools
import math
from dataclasses import replace

import graphs
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from bitsmith.blueprint import CLIPS, FLOAT, Bits, InputContract, NetworkGraph, plan_grids
from bitsmith.cost import costs_at_streams, exact, plan_arena, tabulate
from bitsmith.cost.memory import Tensor, _from_both_ends, _greedy_by_size, _height, widening
from bitsmith.deploy import lower
from bitsmith.deploy.float_operators import Dequantize, FloatFunction
from bitsmith.deploy.operators import Flatten
from bitsmith.quantize import build, freeze
from bitsmith.space.precision import precision

NO_DATA = {"flatten", "dropout"}


def run(graph: NetworkGraph) -> None:
    """Execute the graph on an arena of stamps: every node writes its stamp, every reader looks for it."""
    plan = plan_arena(graph)
    arena = np.full(plan.total, -1)
    stamp: dict[str, int] = {}

    def bytes_of(name: str) -> np.ndarray:
        tensor = plan.storage[name]
        view = arena[plan.offsets[tensor] : plan.offsets[tensor] + plan.sizes[tensor]]
        assert len(view) == plan.sizes[tensor] >= math.prod(graph[name].shape)
        return view

    for step, node in enumerate(graph.nodes):
        if node.op in NO_DATA:
            assert plan.storage[node.name] == plan.storage[node.inputs[0]]
            stamp[node.name] = stamp[node.inputs[0]]
            continue
        for read in node.inputs:
            assert np.all(bytes_of(read) == stamp[read]), (node.name, read)
        bytes_of(node.name)[:] = step
        stamp[node.name] = step
        for read in node.inputs:  # a kernel reads while it writes; only a merged clip shares its input's bytes
            if plan.storage[read] != plan.storage[node.name]:
                assert np.all(bytes_of(read) == stamp[read]), (node.name, read)
            else:
                assert node.op in ("relu", "relu6")
                assert graph.consumers[read] == (node.name,)
    output = plan.storage[graph.output]
    if f"{output}:float" in plan.sizes:  # it is written while the output is read
        start, size = plan.offsets[f"{output}:float"], plan.sizes[f"{output}:float"]
        assert len(arena[start : start + size]) == size
        arena[start : start + size] = -1
    assert np.all(bytes_of(graph.output) == stamp[graph.output])
    assert plan.total >= plan.lower_bound


@given(graph=graphs.random_graphs())
@example(graph=graphs.every_operator())
@example(graph=graphs.resnet8())
def test_no_tensor_is_overwritten_while_needed(graph):
    run(graph)


@given(widths=st.lists(st.integers(1, 60), min_size=1, max_size=12), side=st.sampled_from([1, 2, 4]))
@example(widths=[10, 8, 9, 12], side=1)  # where greedy by size alone takes more
def test_a_chain_takes_its_largest_neighbors(widths, side):
    graph = graphs.chain(tuple(widths), side=side, classes=3)
    area = side * side
    sizes = [3 * area, *(w * area for w in widths), widths[-1], 3 * 4]  # input, convs, pool, float32 logits
    plan = plan_arena(graph)
    assert plan.total == plan.lower_bound == max(a + b for a, b in itertools.pairwise(sizes))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=9))
def test_both_planners_keep_live_tensors_apart(drawn):
    tensors = [
        Tensor(name=str(i), size=s, first=f, last=f + d)
        for i, (s, f, d) in enumerate(sorted(drawn, key=lambda t: t[1]))
    ]
    bound = max(sum(t.size for t in tensors if t.first <= step <= t.last) for step in range(14))
    for offsets in (_greedy_by_size(tensors), _from_both_ends(tensors, bound), _from_both_ends(tensors, 2 * bound)):
        if offsets is None:
            continue
        assert _height(tensors, offsets) >= bound
        for i, a in enumerate(tensors):
            for b in tensors[:i]:
                if a.meets(b):
                    start, end = offsets[a.name], offsets[a.name] + a.size
                    assert end <= offsets[b.name] or offsets[b.name] + b.size <= start


def test_a_branch_that_nobody_reads_takes_no_memory():
    s = graphs.Sketch((1, 4, 4))
    output = s.conv("output", "x", 2)
    s.conv("late2", s.conv("late1", "x", 30), 30)
    graph = NetworkGraph(nodes=tuple(s.nodes.values()), output=output)
    run(graph)
    assert plan_arena(graph).total == (1 + 4 * 2) * 16  # the output is logits, 4 bytes each


def test_residual_blocks_hold_three_tensors():
    # The first block of ResNet-8 holds its input, and 16x32x32 twice: 3 x 16,384 bytes.
    assert plan_arena(graphs.resnet8()).total == 3 * 16 * 32 * 32


def test_a_clip_that_merges_shares_its_producers_bytes():
    plan = plan_arena(graphs.every_operator())
    assert plan.storage["relu"] == "stem"
    assert plan.storage["relu6"] == "affine"
    assert plan.storage["apart"] == "apart"
    assert plan.sizes["fc"] == 4 * 5


def test_logits_through_a_pool_are_float32():
    s = graphs.Sketch((1, 4, 4))
    plan = plan_arena(s.graph(s.max_pool("pool", s.conv("conv", "x", 2))))
    assert plan.sizes == {"x": 16, "conv": 4 * 32, "pool": 4 * 8}


def ends_in(op: str) -> NetworkGraph:
    s = graphs.Sketch((3, 4, 4))
    a = s.conv("a", "x", 3)
    if op == "input":
        return s.graph("x")
    if op in ("add", "concat", "multiply"):
        return s.graph(s.concat(op, a, "x") if op == "concat" else s.same(op, op, a, "x"))
    if op == "max_pool":
        return s.graph(s.max_pool(op, s.same("sigmoid", "gate", a)))
    if op == "pad":
        return s.graph(s.pad(op, a, (1, 1, 1, 1)))
    if op == "flatten":
        return s.graph(s.flatten(op, s.same("relu", "relu", s.same("add", "sum", a, "x"))))
    return s.graph(s.same(op, op, a))


ENDS = ["input", "add", "concat", "multiply", "max_pool", "pad", "flatten", "relu", "gelu"]
BUILT = [(end, ends_in(end)) for end in ENDS] + [
    (make.__name__, make()) for make in (graphs.chain, graphs.residual, graphs.every_operator, graphs.modern)
]


@pytest.mark.parametrize("streams", [8, FLOAT])
@pytest.mark.parametrize("every", [0, 1, 2])  # how often a layer is float
@pytest.mark.parametrize("graph", [graph for _, graph in BUILT], ids=[name for name, _ in BUILT])
def test_the_tensors_are_the_programs(graph, every, streams):
    """Names, shapes and types of what a lowered network writes, but for views and what kernels do while they read."""
    blueprint = graphs.blueprint(graph, 4, 4)
    floats = [layer.name for layer in graph.layers][::every] if every else []
    blueprint = blueprint.with_bits(blueprint.bits | dict.fromkeys(floats, Bits(weight=FLOAT, activation=FLOAT)))
    blueprint = replace(blueprint, input=InputContract(kind="float"), stream_bits=streams)
    network = build(blueprint)
    for module in network.calibrated():
        module.begin()
    network.train()(torch.randn(4, *graph.input_shape))
    for module in network.calibrated():
        module.end()
    program = lower(freeze(network, blueprint), blueprint)
    stored = {operator.inputs[0] for operator in program.operators if operator.name.endswith(":stored")}
    written = {
        operator.name.removesuffix(":stored"): math.prod(program.shapes[operator.name])
        * (1 if operator.name in program.grids else 4)
        for operator in program.operators
        # A clip of numbers is a kernel of its own in the file, and none in the arena.
        if not isinstance(operator, Flatten | Dequantize | FloatFunction)
        and not operator.name.endswith((":narrow", ":sign0", ":sign1"))
        and operator.name not in stored
    }
    grids = plan_grids(graph).with_floats(floats)
    written |= {
        operator.name: 4 * math.prod(program.shapes[operator.name])
        for operator in program.operators
        if isinstance(operator, FloatFunction)
        and not (operator.function in CLIPS and grids.is_merged(graph[operator.name]))
    }
    plan = plan_arena(graph, grids.with_float_streams() if streams == FLOAT else grids)
    if graph.layers:
        assert plan.total == exact("ram", graph, blueprint.bits, costs_at_streams(streams))
    last = program.operators[-1]
    if isinstance(last, Dequantize):
        written[f"{plan.storage[graph.output]}:float"] = 4 * math.prod(program.shapes[last.name])
    assert plan.sizes == written
    if not every:
        run(graph)


@given(graph=graphs.random_graphs(), data=st.data())
def test_widening_bounds_what_one_float_layer_takes(graph, data):
    plan = plan_grids(graph)
    layer = data.draw(st.sampled_from([layer.name for layer in graph.layers]))
    carrier = plan.reads[layer]
    before, after = plan_arena(graph, plan), plan_arena(graph, plan.with_floats([layer]))
    if carrier not in plan.direct:
        assert before == after
    else:
        assert after.lower_bound <= before.lower_bound + widening(graph, plan, carrier)
        assert before.lower_bound <= after.lower_bound


def test_a_float_layer_takes_four_bytes_an_element_of_what_it_alone_reads():
    graph = graphs.chain((4, 6), side=8, classes=5)
    bits = graphs.uniform_bits(graph, 4, 4)
    floats = Bits(weight=FLOAT, activation=FLOAT)
    assert exact("ram", graph, bits) == (4 + 6) * 64
    assert exact("ram", graph, bits | {"conv0": floats}) == (4 * 3 + 4) * 64  # the image as numbers, then its sums
    assert exact("ram", graph, bits | {"conv1": floats}) == (4 * 4 + 6) * 64
    assert exact("ram", graph, bits | {"fc": floats}) == (4 + 6) * 64  # six numbers, where much was free


def test_a_float_stream_takes_four_bytes_an_element():
    """Two convolutions and their sum, an average and a linear layer, all that lives beside each other at the sum."""
    s = graphs.Sketch((1, 8, 8))
    y = s.same("relu", "relu", s.conv("a", "x", 4))
    y = s.same("add", "add", s.conv("b", y, 4), y)
    graph = s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 5))
    bits = graphs.uniform_bits(graph, 4, 4)
    assert exact("ram", graph, bits) == 3 * 4 * 64
    assert exact("ram", graph, bits, costs_at_streams(8)) == 3 * 4 * 64
    assert exact("ram", graph, bits, costs_at_streams(FLOAT)) == 3 * 4 * 64 * 4


def test_spaces_and_the_float_network_know_their_streams():
    graph = graphs.residual()
    published = replace(graphs.blueprint(graph, 2, 4), stream_bits=FLOAT)
    space = precision(published, (2,), (4,), ends=FLOAT)
    bits = space.uniform(2, 4).bits
    narrow = precision(graphs.blueprint(graph), (2,), (4,), ends=FLOAT)
    # relu of the stem, a.conv2's output and their sum
    assert exact("ram", graph, bits, space.costs) == 3 * 4 * 64 * 4
    assert exact("ram", graph, bits, narrow.costs) < 3 * 4 * 64 * 4
    assert tabulate("ram", graph, space.options, space.costs).greatest() == 3 * 4 * 64 * 4
    for cost in ("weights", "macs", "bitops", "avg_bits"):
        assert exact(cost, graph, bits, space.costs) == exact(cost, graph, bits)


def test_an_output_on_a_stream_ends_in_float32():
    # At the end: the sum, 48 bytes, and as float32 192 more.
    plan = plan_arena(ends_in("add"))
    assert plan.sizes == {"x": 48, "a": 48, "add": 48, "add:float": 192}
    assert plan.total == 240


def test_a_pool_is_a_tensor_of_its_own():
    s = graphs.Sketch((1, 4, 4))
    y = s.max_pool("pool", s.conv("conv", "x", 2))
    plan = plan_arena(s.graph(s.linear("fc", s.flatten("flat", y), 1)))
    assert plan.sizes == {"x": 16, "conv": 32, "pool": 8, "fc": 4}
    assert plan.total == 48
