"""Blueprints as JSON: what is written is read again, and whatever else is a RunError."""

import copy
import json

import graphs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.blueprint import FLOAT, Bits, Blueprint, InputContract, NetworkGraph, Node, Options
from bitsmith.errors import BitsmithError, CaptureError, RunError

WIDTH = st.sampled_from([*range(1, 9), FLOAT])
NUMBER = st.floats(allow_nan=False, allow_infinity=False)


def contracts(channels):
    numbers = st.tuples(*[NUMBER] * channels)
    deviations = st.tuples(*[NUMBER.filter(lambda x: x > 0)] * channels)
    return st.just(InputContract()) | st.builds(InputContract, kind=st.just("uint8"), mean=numbers, std=deviations)


@st.composite
def blueprints(draw):
    graph = draw(graphs.random_graphs())
    return Blueprint(
        graph=graph,
        bits={layer.name: Bits(weight=draw(WIDTH), activation=draw(WIDTH)) for layer in graph.layers},
        quantizer=draw(st.sampled_from(["lsq", "gaussian", "float"])),
        stream_bits=draw(st.sampled_from([8, FLOAT])),
        input=draw(contracts(graph.input_shape[0])),
        classes=tuple(draw(st.lists(st.text(max_size=5), max_size=4))),
    )


@given(blueprint=blueprints())
def test_round_trip(blueprint):
    text = blueprint.to_json()
    again = Blueprint.from_json(text)
    assert again == blueprint
    assert again.to_json() == text
    assert again.grids == blueprint.grids
    assert again.graph.layers == blueprint.graph.layers


def test_round_trip_of_every_operator_and_field():
    blueprint = graphs.blueprint(graphs.every_operator(), 3, 5)
    assert Blueprint.from_json(blueprint.to_json()) == blueprint


def paths(value, at=()):
    """Every place in a JSON value."""
    yield at
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from paths(child, (*at, key))


def changed(value, at, new):
    value = copy.deepcopy(value)
    if not at:
        return new
    target = value
    for key in at[:-1]:
        target = target[key]
    if new is DELETE:
        del target[at[-1]]
    else:
        target[at[-1]] = new
    return value


DELETE = object()
JUNK = [DELETE, None, True, -1, 0, 1.5, 10**30, float("inf"), float("nan"), "", "x", [], {}, [[]], ["x"], [1, 2, 3]]
GOOD = json.loads(graphs.blueprint(graphs.every_operator()).to_json())


@given(at=st.sampled_from([at for at in paths(GOOD) if at]), junk=st.sampled_from(JUNK))
def test_junk_anywhere_is_read_or_refused(at, junk):
    """Any value replaced by junk: a RunError, or a blueprint (where the junk happens to make sense), nothing else."""
    try:
        blueprint = Blueprint.from_dict(changed(GOOD, at, junk))
    except RunError:
        return
    assert isinstance(blueprint, Blueprint)


@pytest.mark.parametrize("key", [k for k in GOOD if k != "schema"])
def test_a_missing_field_is_damage(key):
    with pytest.raises(RunError, match="damaged"):
        Blueprint.from_dict(changed(GOOD, (key,), DELETE))


@given(cut=st.integers(0, 1500))
def test_truncated_text_is_a_run_error(cut):
    text = json.dumps(GOOD)
    with pytest.raises(RunError, match="not JSON"):
        Blueprint.from_json(text[: min(cut, len(text) - 1)])


@given(st.text(max_size=20))
def test_any_text_is_refused(text):
    with pytest.raises(RunError):
        Blueprint.from_json(text)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5_000, "null", "[]", '"text"', "3"])
def test_odd_json_is_refused(text):
    with pytest.raises(RunError):
        Blueprint.from_json(text)


@pytest.mark.parametrize(
    ("at", "junk"),
    [
        (("bits", "stem"), [float("inf"), 8]),
        (("bits", "stem"), [9, 8]),
        (("bits", "stem"), [8]),
        (("bits", "gone"), [8, 8]),
        (("bits", "stem"), [[8, 2], 8]),
        (("bits", "stem"), [[[8]], 8]),
        (("bits",), {}),
        (("graph", "nodes", 1, "inputs"), []),
        (("graph", "nodes", 1, "inputs"), ["nobody"]),
        (("graph", "nodes", 1, "op"), "mystery"),
        (("graph", "nodes", 1, "shape"), []),
        (("graph", "nodes", 1, "groups"), 0),
        (("graph", "nodes", 1, "unknown"), 1),
        (("graph", "nodes"), []),
        (("graph", "output"), "nobody"),
        (("graph", "nodes", 1, "shape"), [4, 8, 9]),
        (("graph", "nodes", 1, "shape"), [4, 8, 8.0]),
        (("graph", "nodes", 1, "shape"), [10**9, 8, 8]),
        (("graph", "nodes", 1, "kernel"), [9, 9]),
        (("graph", "nodes", 1, "stride"), [0, 1]),
        (("graph", "nodes", 1, "name"), "a..b"),
        (("graph", "nodes", 1, "source"), "\ud800"),
        (("graph", "nodes", 1, "norm"), {"eps": float("nan")}),
        (("input",), {"kind": "uint8", "mean": [0.5] * 3, "std": [0.0] * 3}),
        (("input",), {"kind": "uint8", "mean": [0.5] * 2, "std": [0.5] * 2}),
        (("input",), {"kind": "int3", "mean": [], "std": []}),
        (("classes",), ["a", 3]),
    ],
)  # fmt: skip
def test_broken_graphs_and_bits_are_refused(at, junk):
    with pytest.raises(RunError):
        Blueprint.from_dict(changed(GOOD, at, junk))


@pytest.mark.parametrize(
    ("junk", "said"),
    [
        ([2.9, 8], "whole numbers, got 2.9"),
        ([8, 4.0], "whole numbers, got 4.0"),
        ([True, 8], "whole numbers, got True"),
        (["8", 8], "whole numbers, got '8'"),
        ("88", r"\[weight, activation\], got '88'"),
        ({"8": 0, "4": 0}, r"\[weight, activation\], got \{"),
        ([8, 8, 8], "too many values"),
        ([[2.0] * 4, 8], "whole numbers, got 2.0"),
        ([["2", "4", "8", "3"], 8], "whole numbers, got '2'"),
        ([[[2]] * 4, 8], r"whole numbers, got \[2\]"),
        ([[2] * 100_000, 8], "'conv0' has 4 filters, but 100000 weight bits"),
        ([8, [8] * 2], "'conv0' has 3 maps to read, but 2 activation bits"),
        ([10**400, 8], "weight bits must be 1..8"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_only_whole_numbers_and_lists_of_them_are_bits(junk, said):
    """Nothing is rounded, read from text, or counted after equal numbers became one."""
    good = graphs.blueprint(graphs.chain(channels=(4, 6))).to_dict()
    with pytest.raises(RunError, match=said):
        Blueprint.from_dict(changed(good, ("bits", "conv0"), junk))


@pytest.mark.parametrize("stream_bits", [8.0, True, "8", None])
def test_stream_bits_are_a_whole_number(stream_bits):
    with pytest.raises(RunError, match="whole numbers"):
        Blueprint.from_dict({**GOOD, "stream_bits": stream_bits})


def test_the_first_schema_has_no_bits_per_filter():
    good = graphs.blueprint(graphs.chain(channels=(4, 6))).to_dict()
    wanted = changed(good, ("bits", "conv0"), [[2, 4, 8, 2], 8])
    assert Blueprint.from_dict(wanted).bits["conv0"].weight == (2, 4, 8, 2)
    with pytest.raises(RunError, match=r"whole numbers, got \[2, 4, 8, 2\]"):
        Blueprint.from_dict({**wanted, "schema": 1})


@pytest.mark.parametrize("schema", [0, 3, None, "1", True, 1.0, 2.0, [1]])
def test_other_schemas_are_refused(schema):
    with pytest.raises(RunError, match=r"schema .* can't be read"):
        Blueprint.from_dict({**GOOD, "schema": schema})


def test_the_first_schema_is_read():
    """Files of before there were bits per filter."""
    assert Blueprint.from_dict({**GOOD, "schema": 1}) == graphs.blueprint(graphs.every_operator())


@given(data=st.data())
def test_round_trip_of_bits_per_filter(data):
    blueprint = data.draw(blueprints())
    blueprint = blueprint.with_bits(data.draw(graphs.filter_bits(blueprint.graph)))
    text = blueprint.to_json()
    assert Blueprint.from_json(text) == blueprint
    assert Blueprint.from_json(text).to_json() == text


def test_as_many_bits_as_filters_and_maps():
    graph = graphs.chain(channels=(4, 6))
    for wrong, message in (
        (Bits(weight=(2, 4, 2), activation=8), "'conv0' has 4 filters, but 3 weight bits"),
        (Bits(weight=2, activation=(2, 4)), "'conv0' has 3 maps to read, but 2 activation bits"),
    ):
        with pytest.raises(RunError, match=message):
            Blueprint(graph=graph, bits=graphs.uniform_bits(graph, 8, 8) | {"conv0": wrong})


def test_bits_that_are_all_alike_are_one_number():
    assert Bits(weight=(3, 3), activation=(8, 8, 8)) == Bits(weight=3, activation=8)
    assert Bits(weight=(0, 0), activation=8).weight == (0, 0)  # nothing left: no network, but not a number of bits
    for weight, activation in (((2, 9), 8), ((2, -1), 8), ((2, 32), 8), ((), 8), (8, (4, 0)), (8, (32, 4))):
        with pytest.raises(RunError, match="for each"):
            Bits(weight=weight, activation=activation)


def test_other_whole_numbers_become_ints():
    plain = Bits(weight=(2, 4), activation=8)
    for weight, activation in (
        ([2, 4], 8),
        (np.array([2, 4]).tolist(), np.int64(8)),
        (tuple(np.array([2, 4], np.uint8)), np.uint8(8)),
        (torch.tensor([2, 4]).tolist(), torch.tensor(8)),
    ):
        bits = Bits(weight=weight, activation=activation)
        assert bits == plain
        assert hash(bits) == hash(plain)
        assert type(bits.activation) is int
        assert isinstance(bits.weight, tuple)
        assert {type(width) for width in bits.weight} == {int}
    assert type(Bits(weight=[np.int64(4)] * 2, activation=8).weight) is int


@pytest.mark.parametrize(
    "wrong", [2.5, "8", None, True, np.bool_(True), np.array([2, 4]), (2.5, 4), ("2", "4"), (True, 4), {2: 4}], ids=repr
)
def test_bits_of_another_kind_are_refused(wrong):
    for values in ({"weight": wrong, "activation": 8}, {"weight": 8, "activation": wrong}):
        with pytest.raises(RunError, match="bits must be a whole number, or a list of them, got"):
            Bits(**values)


def test_a_pair_is_of_a_whole_layer():
    assert Bits(weight=2, activation=8).pair("conv") == (2, 8)
    for bits, what in ((Bits(weight=(2, 4), activation=8), "filters"), (Bits(weight=2, activation=(2, 4)), "maps")):
        with pytest.raises(
            RunError, match=f"the {what} of layer 'conv' differ in bits.*; give it a blueprint with one"
        ):
            bits.pair("conv")


@pytest.mark.parametrize("bits", [0, 9, 16, 31, -1])
def test_bits_out_of_range(bits):
    with pytest.raises(RunError, match=f"1..8 .* got {bits}"):
        Bits(weight=bits, activation=8)
    with pytest.raises(RunError, match="activation bits"):
        Bits(weight=8, activation=bits)


@pytest.mark.parametrize("values", [(), (4, 2), (2, 2)])
def test_options_must_rise(values):
    with pytest.raises(RunError, match="rising order"):
        Options(weight=(8,), activation=values)


def node(name, op="relu", inputs=("x",)):
    return Node(name=name, op=op, inputs=inputs, shape=(1, 2, 2))


@pytest.mark.parametrize(
    ("nodes", "output", "message"),
    [
        ((), "x", "starts with its one input"),
        ((node("y"),), "y", "'x', which does not come before"),
        ((node("x", "input", ()), node("x")), "x", "two nodes are called 'x'"),
        ((node("x", "input", ()), node("z", "input", ())), "z", "one input node"),
        ((node("x", "input", ()), node("y", "relu", ("y",))), "y", "'y', which does not come before"),
        ((node("x", "input", ()), node("y", "mystery")), "y", "operator 'mystery'"),
        ((node("x", "input", ()),), "y", "'y' is not a node"),
    ],
)  # fmt: skip
def test_graphs_that_make_no_sense(nodes, output, message):
    with pytest.raises(CaptureError, match=message) as error:
        NetworkGraph(nodes=nodes, output=output)
    assert isinstance(error.value, BitsmithError)


def test_consumers_and_layers():
    graph = graphs.residual()
    assert graph.consumers["stem.relu"] == ("a.conv1", "a.add")
    assert graph.consumers["fc"] == ()
    (down,) = [layer for layer in graph.layers if layer.name == "b.down"]
    assert (down.in_channels, down.out_channels, down.kernel, down.stride) == (4, 8, (1, 1), (2, 2))
    assert (down.weights, down.macs) == (32, 32 * 16)
