"""Targets: what they hold, what they refuse and how they say so."""

import dataclasses

import graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.blueprint import FLOAT, Budget, Options
from bitsmith.cost import COSTS, TARGETS, check_budgets, exact
from bitsmith.cost.latency import LatencyTable, Setting, Timing
from bitsmith.cost.target import FORMS, forms
from bitsmith.cost.zigzag import ZigZag
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.quantize import QUANTIZERS
from bitsmith.space.precision import precision

NAMES = st.sampled_from(sorted(TARGETS))
WIDTHS = st.lists(st.sampled_from(range(1, 9)), min_size=1, unique=True).map(lambda v: tuple(sorted(v)))


@given(name=NAMES, weights=WIDTHS, activations=WIDTHS)
def test_a_narrowed_space_holds_only_what_the_target_does(name, weights, activations):
    target, graph = TARGETS[name], graphs.chain()
    narrow = target.narrow(weights, target.weight_bits), target.narrow(activations, target.activation_bits)
    space = precision(graphs.blueprint(graph), *narrow, ends=None, costs=target.costs)
    for options in space.options.values():
        assert set(options.weight) <= set(target.weight_bits)
        assert set(options.activation) <= set(target.activation_bits)
    if set(weights) & set(target.weight_bits):
        assert set(narrow[0]) <= set(weights)
    target.check(space.options, graph, power_of_two=target.power_of_two)


@given(name=NAMES, weights=WIDTHS, activations=WIDTHS)
def test_bits_that_a_target_lacks_are_refused_and_never_rounded(name, weights, activations):
    target, graph = TARGETS[name], graphs.chain()
    options = {layer.name: Options(weight=weights, activation=activations) for layer in graph.layers}
    if set(weights) <= set(target.weight_bits) and set(activations) <= set(target.activation_bits):
        target.check(options, graph, power_of_two=target.power_of_two)
        return
    with pytest.raises(RecipeError, match=rf"target '{name}' can't hold (weight|activation) bits .* of layer 'conv0'"):
        target.check(options, graph, power_of_two=target.power_of_two)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_takes_a_plain_network_and_onnx_alone_a_float_layer(name):
    target, graph = TARGETS[name], graphs.resnet8()
    held = {la.name: Options(weight=target.weight_bits, activation=target.activation_bits) for la in graph.layers}
    target.check(held, graph, power_of_two=True)
    for floats in (
        Options(weight=(FLOAT,), activation=held["fc"].activation),
        Options(weight=(8,), activation=(FLOAT,)),
    ):
        held["fc"] = floats
        if name == "onnx":
            target.check(held, graph, power_of_two=True)
            continue
        with pytest.raises(RecipeError, match=r"layer 'fc' would stay float.*; pin it to 8 instead, or .* target onnx"):
            target.check(held, graph, power_of_two=True)


def test_wrong_steps_and_scales_are_refused():
    graph = graphs.chain()
    options = {layer.name: Options(weight=(8,), activation=(8,)) for layer in graph.layers}
    with pytest.raises(RecipeError, match="'hls4ml' takes steps that are powers of two; choose quantizer lsq-pow2"):
        TARGETS["hls4ml"].check(options, graph, power_of_two=False)
    coarse = dataclasses.replace(TARGETS["c"], per_channel=False)
    with pytest.raises(RecipeError, match="one scale for all channels"):
        coarse.check(options, graph, power_of_two=False)


def test_weights_without_a_zero_are_refused():
    """By FINN alone, and only where a layer may have such bits; of every quantizer, as it says of itself."""
    graph = graphs.chain()
    two, eight = ({layer.name: Options(weight=(bits,), activation=(4,)) for layer in graph.layers} for bits in (2, 8))
    for name, odd in {"lsq": (), "nice": (), "pact": range(2, 7), "gaussian": range(2, 8), "hwgq": range(2, 8)}.items():
        bits = QUANTIZERS[name].odd_bits()
        assert bits == set(odd), name
        TARGETS["finn"].check(eight, graph, power_of_two=False, odd_bits=bits)
        TARGETS["onnx"].check(two, graph, power_of_two=False, odd_bits=bits)
        if odd:
            with pytest.raises(RecipeError, match=r"'finn' takes weights with a zero point of 0 alone.* none at 2"):
                TARGETS["finn"].check(two, graph, power_of_two=False, odd_bits=bits)
        else:
            TARGETS["finn"].check(two, graph, power_of_two=False, odd_bits=bits)


def test_operators_are_refused_with_their_places():
    s = graphs.Sketch((4, 8, 8))
    y = s.conv("conv", "x", 8)
    y = s.put("silu", "act", (8, 8, 8), y, source="net.py:12")
    y = s.put("conv", "grouped", (8, 8, 8), y, groups=2)
    y = s.put("conv", "depthwise", (8, 8, 8), y, groups=8)
    graph = s.graph(s.pad("pad", y, (1, 1, 1, 1), "circular"))
    options = {layer.name: Options(weight=(8,), activation=(8,)) for layer in graph.layers}
    TARGETS["onnx"].check(options, graph, power_of_two=False)
    with pytest.raises(RecipeError) as refused:
        TARGETS["finn"].check(options, graph, power_of_two=False)
    assert "silu at 'act' (net.py:12): FINN" in str(refused.value)
    assert "grouped conv at 'grouped'" in str(refused.value)
    assert "circular pad at 'pad'" in str(refused.value)
    assert "depthwise" not in str(refused.value)
    why = "the TFLite file has no int8 operator of the same numbers for it"
    assert TARGETS["ethos-u"].refused(graph) == [
        f"silu at 'act' (net.py:12): {why}",
        f"grouped conv at 'grouped': {why}",
        f"circular pad at 'pad': {why}",
    ]


def test_a_bounded_relu_is_refused_where_the_bound_would_be_lost():
    s = graphs.Sketch((4, 8, 8))
    graph = s.graph(s.same("relu6", "act", s.conv("conv", "x", 8)))
    for name, words in (("finn", "no Clip with an upper bound"), ("hls4ml", "forgets its upper bound")):
        (text,) = TARGETS[name].refused(graph)
        assert text.startswith("relu6 at 'act': ")
        assert words in text
    assert TARGETS["ethos-u"].refused(graph) == []


def test_forms_are_all_that_any_network_can_have():
    s = graphs.Sketch((4, 8, 8))
    y = s.window("conv", "wide", "x", 4, 1, 4)
    graph = s.graph(s.pad("pad", s.same("gelu", "act", y), (1, 1, 1, 1), "circular"))
    assert {form for node in graph.nodes for form in forms(graph, node)} <= {"input", *FORMS}
    with pytest.raises(AssertionError):
        dataclasses.replace(TARGETS["c"], lacks={"relx": "no such operator"})


def test_strides_count_where_there_is_more_than_one_output():
    s = graphs.Sketch((4, 8, 8))
    y = s.window("conv", "wide", "x", 4, 1, 4)
    graph = s.graph(s.global_pool("pool", y))
    assert forms(graph, graph["wide"]) == ["conv", "conv at a stride over 3"]
    assert forms(graph, graph["pool"]) == ["avg_pool"]


def test_memories_become_budgets_and_the_tighter_limit_holds():
    board = dataclasses.replace(TARGETS["c"], memories={"flash": 64_000, "ram": 16_000})
    size, loose, tight = (Budget.parse(text) for text in ("size=20kB", "ram=20kB", "ram=8kB"))
    flash, ram = Budget(cost="flash", limit=64_000.0), Budget(cost="ram", limit=16_000.0)
    assert board.within([size]) == (size, flash, ram)
    assert board.within([loose]) == (flash, ram)
    assert board.within([tight, size]) == (tight, size, flash)
    assert TARGETS["c"].within([tight]) == (tight,)


@given(graph=graphs.random_graphs(), w=st.integers(1, 8), a=st.integers(1, 8))
def test_flash_is_size_and_code(graph, w, a):
    bits = graphs.uniform_bits(graph, w, a)
    beside = exact("flash", graph, bits, TARGETS["c"].costs) - exact("size", graph, bits) - 10_000
    uses = sum(node.op in ("conv", "linear") for node in graph.nodes)
    assert beside % 100 == 0
    assert uses <= beside // 100 < len(graph.nodes)


@pytest.mark.parametrize(
    ("graph", "operators"),
    [
        (graphs.chain((4, 6, 8)), 3 + 2),  # their pool and fc; every ReLU is part of its convolution
        (graphs.residual(), 1 + 3 + 4 + 2),  # stem, a block of two, one with a downsample, pool and fc; both add
    ],
)
def test_each_operator_has_a_call_and_a_geometry(graph, operators):
    bits = graphs.uniform_bits(graph, 4, 4)
    flash, size = (exact(cost, graph, bits, TARGETS["c"].costs) for cost in ("flash", "size"))
    assert flash == 10_000 + 100 * operators + size


def test_what_c_code_has_no_order_for_is_refused_before_the_search():
    s = graphs.Sketch((3, 4, 4))
    maps = s.flatten("flat", s.conv("conv", "x", 4))
    s.split("half", maps, 0, 10)
    s.concat("both", maps, s.linear("other", maps, 5))
    s.same("add", "sum", maps, s.linear("like", maps, 64))
    s.same("add", "alike", maps, maps)
    s.same("affine", "scaled", maps)
    s.concat("late", "scaled", "like")
    s.concat("pooled", s.flatten("one", s.global_pool("pool", "conv")), "like")
    s.concat("features", "other", "like")
    joined = ("half", "both", "late", "sum", "alike", "pooled", "features")
    lacking = {name: set(forms(s.graph(name), s.graph(name)[name])) & TARGETS["c"].lacks.keys() for name in joined}
    assert {name: list(found) for name, found in lacking.items() if found} == {
        "half": ["split of flattened maps"],
        "both": ["concat of flattened maps"],
        "late": ["concat of flattened maps"],
        "sum": ["add of flattened maps and others"],
    }
    graph = s.graph("both")
    options = {layer.name: Options(weight=(4,), activation=(4,)) for layer in graph.layers}
    with pytest.raises(
        RecipeError, match=r"can't hold this network: .*concat of flattened maps at 'both'.*flatten after"
    ):
        TARGETS["c"].check(options, graph, power_of_two=False)


def test_budgets_on_unknown_costs_name_the_targets_that_know_them():
    energy = [Budget.parse("energy=1uJ")]
    check_budgets(TARGETS["mpic"], energy)
    with pytest.raises(BudgetError, match=r"target 'onnx' can't meet energy=1uJ.*target mpic or bitops-energy has it"):
        check_budgets(TARGETS["onnx"], energy)
    with pytest.raises(BudgetError, match=r"'finn' can't meet power=1mW@30fps.*mpic"):
        check_budgets(TARGETS["finn"], [Budget.parse("power=1mW@30fps")])
    with pytest.raises(BudgetError, match=r"'mpic' can't meet flash=1MB.*target c has it"):
        check_budgets(TARGETS["mpic"], [Budget.parse("flash=1MB")])


@pytest.mark.parametrize("name", TARGETS)
def test_descriptions_are_complete_and_pretend_nothing(name):
    target = TARGETS[name]
    assert target.name == name
    assert set(COSTS) <= set(target.costs)
    assert target.sources
    assert target.note
    if "onnx" not in target.formats:  # its own exporter isn't there, and the note says so
        assert target.formats == ()
        assert "doesn't exist yet" in target.note or "nothing writes" in target.note


def test_float_layers_beside_a_price_of_integers_alone_are_refused():
    with pytest.raises(RecipeError, match=r"target 'onnx': nothing says what a float layer takes .*float_layers=False"):
        dataclasses.replace(TARGETS["onnx"], energy="bitops-energy")
    assert "energy" in dataclasses.replace(TARGETS["onnx"], energy="bitops-energy", float_layers=False).costs


def test_filters_that_differ_are_refused_where_nothing_could_price_or_hold_them(tmp_path):
    """Before a search, and not when its result is priced."""
    onnx = dataclasses.replace(TARGETS["onnx"], float_layers=False)
    for remove in (True, False):
        TARGETS["onnx"].check_filters(bits=True, maps=True, remove=remove)
        with pytest.raises(
            RecipeError, match=r"'hls4ml' has one weight bit-width for each layer.*; take target onnx, or"
        ):
            TARGETS["hls4ml"].check_filters(bits=True, maps=False, remove=remove)
        TARGETS["hls4ml"].check_filters(bits=False, maps=False, remove=remove)
        zigzag = dataclasses.replace(onnx, name="z", zigzag=ZigZag(accelerator=tmp_path, mapping=tmp_path))
        with pytest.raises(RecipeError, match=r"'z' is priced by ZigZag, which .*; take a target without zigzag, or"):
            zigzag.check_filters(bits=True, maps=False, remove=remove)
        zigzag.check_filters(bits=False, maps=False, remove=remove)  # it prices narrower layers
    setting = Setting(cpu="c", system="s", runtime="onnxruntime 1", threads=1, input="float")
    table = LatencyTable(setting=setting, call=Timing(nanoseconds=1, spread=0, measured=1), entries={})
    measured = dataclasses.replace(onnx, name="m", latency=table)
    by_weights = dataclasses.replace(measured, latency=dataclasses.replace(table, by_weights=True))
    for target in (measured, by_weights):
        for bits, way_out in ((True, r"take remove: false \(with filters\), a target"), (False, "take a target")):
            with pytest.raises(RecipeError, match=rf"'m' has a measured latency table.* nobody measured; {way_out}"):
                target.check_filters(bits=bits, maps=False, remove=True)
        with pytest.raises(RecipeError, match=r"'m' has .*layers whose maps differ in bits have no time there; take a"):
            target.check_filters(bits=True, maps=True, remove=False)
    measured.check_filters(bits=True, maps=False, remove=False)
    with pytest.raises(RecipeError, match=r"'m' has .*layers whose filters differ in bits have no time there; take a"):
        by_weights.check_filters(bits=True, maps=False, remove=False)
