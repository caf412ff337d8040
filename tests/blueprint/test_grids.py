"""Grid plans of small graphs, worked out by hand."""

import graphs
import pytest
from hypothesis import given

from bitsmith.blueprint import CLIPS, JOINING, TRANSPARENT, NetworkGraph, plan_grids
from bitsmith.errors import CaptureError


def test_plain_chain():
    plan = plan_grids(graphs.chain((4, 6)))
    # Every tensor has one reader, which is a priced layer or a pool: conv1's goes into the average pool.
    assert plan.direct == {"x": "conv0", "relu0": "conv1", "pool": "fc"}
    assert plan.stream == {"relu1": "relu1"}
    assert plan.reads == {"conv0": "x", "conv1": "relu0", "fc": "pool"}
    assert plan.logits == "fc"
    assert plan.carrier["flat"] == "pool"
    assert not any(plan.narrows(name) for name in plan.reads)
    assert {name: plan.signed[name] for name in ("x", "conv0", "relu0", "pool", "flat", "fc")} == {
        "x": True, "conv0": True, "relu0": False, "pool": False, "flat": False, "fc": True,
    }  # fmt: skip


def test_residual_blocks():
    plan = plan_grids(graphs.residual())
    # Identity: stem, a.conv2 and their sum share a step. Downsample: b.conv2, b.down and their sum share another,
    # as nothing adds across the second block's entrance.
    one, other = plan.stream["stem.relu"], plan.stream["b.relu2"]
    assert one != other
    assert {name for name, group in plan.stream.items() if group == one} == {"stem.relu", "a.conv2", "a.relu2"}
    assert {name for name, group in plan.stream.items() if group == other} == {"b.conv2", "b.down", "b.relu2"}
    assert set(plan.stream.values()) == {one, other}
    assert plan.direct == {"x": "stem", "a.relu1": "a.conv2", "b.relu1": "b.conv2", "pool": "fc"}
    assert [name for name in plan.reads if plan.narrows(name)] == ["a.conv1", "b.conv1", "b.down"]
    assert plan.signed["a.add"]
    assert not plan.signed["a.relu2"]


def test_pre_activation_block():
    """conv - (BatchNorm - relu - conv) x 2 + identity: the affine reads the stream that the add reads."""
    s = graphs.Sketch()
    start = s.conv("stem", "x", 4, norm=False)
    y = s.same("relu", "relu1", s.affine("bn1", start))
    y = s.conv("conv1", y, 4, norm=False)
    y = s.same("relu", "relu2", s.affine("bn2", y))
    y = s.conv("conv2", y, 4, norm=False)
    y = s.same("add", "add", y, start)
    y = s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 5)
    plan = plan_grids(s.graph(y))
    assert plan.direct == {"x": "stem", "relu1": "conv1", "relu2": "conv2", "pool": "fc"}
    # conv1 is read by an affine alone: a stream with a step of its own.
    assert plan.stream["stem"] == plan.stream["conv2"] == plan.stream["add"] != plan.stream["conv1"]
    assert set(plan.stream) == {"stem", "conv1", "conv2", "add"}
    assert plan.signed["add"]
    assert plan.signed["pool"]
    assert not any(plan.narrows(name) for name in plan.reads)


def test_max_pool_between():
    s = graphs.Sketch()
    y = s.max_pool("pool", s.same("relu", "relu", s.conv("conv0", "x", 4)))
    y = s.conv("conv1", y, 4)
    plan = plan_grids(s.graph(s.linear("fc", s.flatten("flat", s.global_pool("avg", y)), 5)))
    assert plan.carrier["pool"] == "relu"
    assert plan.direct == {"x": "conv0", "relu": "conv1", "avg": "fc"}
    assert plan.reads["conv1"] == "relu"
    assert not plan.signed["pool"]


def test_a_tensor_read_by_two_convs():
    s = graphs.Sketch()
    y = s.same("relu", "relu", s.conv("conv0", "x", 4))
    y = s.same("add", "add", s.conv("left", y, 4), s.conv("right", y, 4))
    plan = plan_grids(s.graph(s.linear("fc", s.flatten("flat", s.global_pool("avg", y)), 5)))
    assert plan.narrows("left")
    assert plan.narrows("right")
    assert plan.stream["relu"] not in (plan.stream["left"], plan.stream["add"])
    assert plan.stream["left"] == plan.stream["right"] == plan.stream["add"]


def test_an_input_read_by_two_convs_is_a_stream():
    s = graphs.Sketch()
    y = s.same("add", "add", s.conv("left", "x", 4), s.conv("right", "x", 4))
    plan = plan_grids(s.graph(s.global_pool("avg", y)))
    assert "x" in plan.stream
    assert plan.narrows("left")
    assert plan.narrows("right")


def test_logits_by_average_pool_and_flatten():
    s = graphs.Sketch()
    y = s.conv("head", s.same("relu", "relu", s.conv("conv", "x", 4)), 5, kernel=1)
    plan = plan_grids(s.graph(s.flatten("flat", s.global_pool("avg", y))))
    assert plan.logits == "avg"
    assert plan.carrier["flat"] == "avg"
    assert plan.stream == {"head": "head"}
    assert plan.direct == {"x": "conv", "relu": "head"}


@pytest.mark.parametrize("last", ["relu", "add"])
def test_outputs_that_are_no_logits_lie_on_a_stream(last):
    s = graphs.Sketch()
    y = s.conv("a", "x", 4)
    y = s.same("relu", "relu", y) if last == "relu" else s.same("add", "add", y, s.conv("b", "x", 4))
    plan = plan_grids(s.graph(y))
    assert plan.logits is None
    assert y in plan.stream


def test_a_clip_that_shares_its_operand_stands_apart():
    s = graphs.Sketch()
    y = s.conv("a", "x", 4)
    y = s.same("add", "add", s.conv("b", s.same("relu", "relu", y), 4), y)
    plan = plan_grids(s.graph(s.global_pool("avg", y)))
    # The conv is read before and after the clip: both tensors exist, on one step, the clip's without sign.
    assert plan.stream["a"] == plan.stream["relu"] == plan.stream["b"] == plan.stream["add"]
    assert plan.narrows("b")
    assert plan.signed["a"]
    assert not plan.signed["relu"]


def test_a_branch_that_nobody_reads_changes_nothing():
    s = graphs.Sketch()
    y = s.conv("a", "x", 4)
    s.same("relu", "dead", y)
    graph = NetworkGraph(nodes=tuple(s.nodes.values()), output=y)
    assert [node.name for node in graph.nodes] == ["x", "a"]
    assert graph.consumers == {"x": ("a",), "a": ()}
    assert plan_grids(graph).logits == "a"


def test_functions_read_streams_and_write_anywhere():
    s = graphs.Sketch()
    y = s.same("silu", "silu", s.conv("a", "x", 4))
    y = s.same("relu6", "clip", s.same("tanh", "tanh", s.conv("b", y, 4)))
    y = s.same("sigmoid", "sigmoid", s.conv("c", y, 4))
    plan = plan_grids(s.graph(s.linear("fc", s.flatten("flat", y), 5)))
    assert plan.direct == {"x": "a", "silu": "b", "clip": "c", "sigmoid": "fc"}
    assert set(plan.stream) == {"a", "b", "c"}
    assert plan.is_merged(s.nodes["clip"])
    assert plan.carrier["flat"] == "sigmoid"
    assert [plan.signed[name] for name in ("silu", "tanh", "clip", "sigmoid")] == [True, True, False, False]


def test_products_have_steps_of_their_own():
    s = graphs.Sketch()
    y = s.gate("se", s.same("relu", "relu", s.conv("a", "x", 4)))
    plan = plan_grids(s.graph(s.linear("fc", s.flatten("flat", s.conv("b", y, 4)), 5)))
    assert plan.direct == {"x": "a", "se.pool": "se.fc", "se": "b", "b": "fc"}
    assert len({plan.stream[name] for name in ("relu", "se.fc", "se.scale")}) == 3
    assert not plan.signed["se"]
    last = plan_grids(s.graph("se"))
    assert last.logits is None  # a product needs a step to be rounded to
    assert "se" in last.stream


def test_concats_join_what_they_read():
    s = graphs.Sketch()
    a = s.same("relu", "a.relu", s.conv("a", "x", 4))
    y = s.concat("cat", a, s.max_pool("pool", s.conv("b", a, 4), kernel=1, stride=1))
    y = s.same("relu", "apart", y)
    plan = plan_grids(s.graph(s.linear("fc", s.flatten("flat", y), 5)))
    assert {plan.stream[name] for name in ("a.relu", "b", "cat", "apart")} == {plan.stream["cat"]}
    assert [plan.signed[name] for name in ("a.relu", "b", "cat", "apart")] == [False, True, True, False]
    assert plan.carrier["pool"] == "b"
    assert not plan.is_merged(s.nodes["apart"])  # a concat computes nothing that a clip could merge with


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_zeros_are_no_sign(mode):
    s = graphs.Sketch()
    y = s.conv("b", s.pad("pad", s.conv("a", "x", 4), (1, 1, 1, 1), mode), 4)
    plan = plan_grids(s.graph(s.flatten("flat", s.global_pool("pool", y))))
    assert plan.carrier["pad"] == "a"
    assert ("a" in plan.stream) == plan.narrows("b") == (mode == "zeros")


def test_moved_channels_keep_their_grid():
    s = graphs.Sketch()
    y = s.put("shuffle", "mix", (4, 8, 8), s.split("half", s.conv("a", "x", 8), 4, 4), groups=2)
    plan = plan_grids(s.graph(s.flatten("flat", s.global_pool("pool", s.conv("b", y, 4)))))
    assert plan.carrier["mix"] == plan.carrier["half"] == "a"
    assert plan.direct["a"] == "b"


def test_uses_of_a_layer_read_one_step():
    s = graphs.Sketch()
    a = s.same("relu", "relu", s.conv("a", "x", 4))
    b = s.conv("b", a, 4)
    y = s.shared("b3", s.same("tanh", "tanh", s.shared("b2", b, "b")), "b")
    graph = s.graph(s.flatten("flat", s.global_pool("pool", y)))
    plan = plan_grids(graph)
    assert graph.uses == {"a": ("a",), "b": ("b", "b2", "b3")}
    assert [layer.name for layer in graph.layers] == ["a", "b"]
    assert graph.layers[1].macs == 3 * 64 * graph.layers[1].weights
    assert plan.layer_reads == {"a": ("x",), "b": ("relu", "b", "tanh")}
    assert {plan.stream[name] for name in ("relu", "b", "tanh")} == {plan.stream["relu"]}
    assert plan.narrows("b")
    assert plan.reads_signed("b")
    assert [plan.signed[name] for name in plan.layer_reads["b"]] == [False, True, True]


def test_windows_that_divide_by_position_are_no_logits():
    s = graphs.Sketch()
    y = s.window("avg_pool", "mean", s.conv("a", "x", 4), 4, 3, 1, padding=(1, 1, 1, 1), count_pad=False)
    assert plan_grids(s.graph(y)).stream == {"a": "a", "mean": "mean"}
    y = s.window("avg_pool", "plain", "a", 4, 3, 1, padding=(1, 1, 1, 1))
    assert plan_grids(s.graph(y)).logits == "plain"


def test_the_owner_of_shared_parameters_is_needed():
    s = graphs.Sketch((3, 8, 8))
    y = s.same("relu", "relu", s.conv("a", "x", 3))
    s.conv("b", y, 4)
    s.shared("c", y, "b")
    with pytest.raises(CaptureError, match="'c' shares the parameters of 'b', which the output doesn't depend on"):
        s.graph("c")


@given(graph=graphs.random_graphs())
def test_every_grid_has_one_owner(graph):
    plan = plan_grids(graph)
    merged = {
        graph[n.name].inputs[0] for n in graph.nodes if n.op in CLIPS and plan.carrier[n.inputs[0]] not in plan.stream
    }
    for node in graph.nodes:
        carrier = plan.carrier[node.name]
        assert (carrier == node.name) == (node.op not in TRANSPARENT)
        if (graph.consumers[node.name] or node.name == graph.output) and carrier not in merged:
            owners = [carrier in plan.stream, carrier in plan.direct, carrier == plan.logits]
            assert sum(owners) == 1, (node.name, owners)
        if node.op in JOINING:  # operands and result share one step; a sum that merges with its clip gives it that
            result = graph.consumers[node.name][0] if node.name in merged else node.name
            groups = {plan.stream[plan.carrier[read]] for read in node.inputs}
            assert len(groups | ({plan.stream[result]} if result in plan.stream else set())) == 1
    for layer in graph.layers:
        carriers = plan.layer_reads[layer.name]
        assert set(carriers) == {plan.reads[use] for use in graph.uses[layer.name]}
        if plan.narrows(layer.name):
            assert len({plan.stream[carrier] for carrier in carriers}) == 1
        else:
            assert [plan.direct[carrier] for carrier in carriers] == [layer.name]
