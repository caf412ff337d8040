"""Grid plans of small graphs, worked out by hand."""

import graphs
import pytest
from hypothesis import given

from bitsmith.blueprint import CLIPS, TRANSPARENT, NetworkGraph, plan_grids


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


def test_a_conv_that_is_the_output_and_feeds_a_clip_keeps_its_grid():
    s = graphs.Sketch()
    y = s.conv("a", "x", 4)
    s.same("relu", "dead", y)
    plan = plan_grids(NetworkGraph(nodes=tuple(s.nodes.values()), output=y))
    assert plan.carrier["a"] == "a"
    assert "a" in plan.stream


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
        if node.op == "add":  # operands and sum share one step; a sum that merges with its clip gives it to the clip
            result = graph.consumers[node.name][0] if node.name in merged else node.name
            groups = {plan.stream[plan.carrier[read]] for read in node.inputs}
            assert len(groups | ({plan.stream[result]} if result in plan.stream else set())) == 1
    for layer in graph.layers:
        reads = plan.reads[layer.name]
        assert plan.narrows(layer.name) != (plan.direct.get(reads) == layer.name)
