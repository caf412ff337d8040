"""Works, tables and the cost made of them: additive, refused where unknown, whole from a damaged file."""

import json
from dataclasses import replace

import graphs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.blueprint import FLOAT, Bits, Blueprint, Budget, Options
from bitsmith.cost import ExpectedCost, exact, fits, tabulate
from bitsmith.cost.latency import (
    LatencyTable,
    Setting,
    Timing,
    latency_cost,
    network_works,
    read_latency_table,
)
from bitsmith.errors import RecipeError, RunError

SETTING = Setting(cpu="an abacus", system="Wood x86_64", runtime="onnxruntime 1.31.1", threads=1, input="uint8")
WIDTHS = st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True).map(lambda v: tuple(sorted(v)))
OPTIONS = st.builds(Options, weight=WIDTHS, activation=WIDTHS)


def timing(nanoseconds: int) -> Timing:
    return Timing(nanoseconds=nanoseconds, spread=1, measured=10)


def invented(*blueprints: Blueprint) -> LatencyTable:
    """A table of all that these networks run, with a time of its own for every key."""
    keys = dict.fromkeys(work.key for blueprint in blueprints for work in network_works(blueprint))
    return LatencyTable(
        setting=SETTING, call=timing(5_000), entries={key: timing(1000 + 37 * i) for i, key in enumerate(keys)}
    )


def corners(graph, options) -> list[Blueprint]:
    """Blueprints that have every option of every layer between them."""
    most = max(len(o.activation) for o in options.values())
    return [
        Blueprint(
            graph=graph,
            bits={
                name: Bits(weight=o.weight[0], activation=o.activation[i % len(o.activation)])
                for name, o in options.items()
            },
        )
        for i in range(most)
    ]


@given(data=st.data())
def test_expected_at_one_hot_is_exact_and_exact_is_the_sum_over_the_works(data):
    graph = data.draw(graphs.random_graphs())
    options = {layer.name: data.draw(OPTIONS) for layer in graph.layers}
    table = invented(*corners(graph, options))
    costs = {"latency": latency_cost(table)}
    bits, p, q, indices = {}, {}, {}, []
    for name, o in options.items():
        w, a = data.draw(st.integers(0, len(o.weight) - 1)), data.draw(st.integers(0, len(o.activation) - 1))
        bits[name] = Bits(weight=o.weight[w], activation=o.activation[a])
        p[name] = torch.nn.functional.one_hot(torch.tensor(w), len(o.weight)).float()
        q[name] = torch.nn.functional.one_hot(torch.tensor(a), len(o.activation)).float()
        indices.append((w, a))
    value = exact("latency", graph, bits, costs)
    works = network_works(Blueprint(graph=graph, bits=bits))
    assert value == (5_000 + sum(table.entries[work.key].nanoseconds for work in works)) / 1e9
    assert ExpectedCost("latency", graph, options, costs)(p, q).item() == value
    tables = tabulate("latency", graph, options, costs)
    assert tables.value(tables.total(np.array(indices))) == value
    assert fits(graph, bits, [Budget(cost="latency", limit=value)], costs)
    assert not fits(graph, bits, [Budget(cost="latency", limit=value * (1 - 1e-9))], costs)


def test_the_works_of_a_residual_network_are_these():
    graph = graphs.residual(side=8)
    narrow = {work.operator + (" clip" if work.part == "clip" else ""): work.key for work in network_works(
        graphs.blueprint(graph, 4, 4)
    )}  # fmt: skip
    assert narrow == {
        "x": "input 3x8x8, onto signed",
        "stem": "conv 3x8x8 to 4x8x8, kernel 3x3, padding 1 1 1 1",
        "a.conv1:narrow": "narrow 4x8x8, unsigned to unsigned",
        "a.conv1": "conv 4x8x8 to 4x8x8, kernel 3x3, padding 1 1 1 1",
        "a.conv1 clip": "clip 4x8x8",
        "a.conv2": "conv 4x8x8 to 4x8x8, kernel 3x3, padding 1 1 1 1",
        "a.add": "add 4x8x8 + 4x8x8 to 4x8x8",
        "b.conv1:narrow": "narrow 4x8x8, unsigned to unsigned",
        "b.conv1": "conv 4x8x8 to 8x4x4, kernel 3x3, stride 2x2, padding 1 1 1 1",
        "b.conv1 clip": "clip 8x4x4",
        "b.conv2": "conv 8x4x4 to 8x4x4, kernel 3x3, padding 1 1 1 1",
        "b.down:narrow": "narrow 4x8x8, unsigned to unsigned",
        "b.down": "conv 4x8x8 to 8x4x4, stride 2x2",
        "b.add": "add 8x4x4 + 8x4x4 to 8x4x4",
        "pool": "average 8x4x4 to 8x1x1, kernel 4x4, groups 8",
        "pool clip": "clip 8x1x1",
        "flat": "flatten 8x1x1 to 8",
        "fc": "linear logits 8 to 5",
    }
    wide = [work.key for work in network_works(graphs.blueprint(graph, 4, 8))]
    assert not any(key.startswith(("narrow", "clip")) for key in wide)
    assert len(wide) == len(narrow) - 6


def test_weight_bits_and_how_few_activation_bits_do_not_matter():
    graph = graphs.residual()
    table = invented()
    prints = {(w, a): table.fingerprint(graphs.blueprint(graph, w, a)) for w in (1, 4, 8) for a in (1, 2, 7, 8)}
    assert len({prints[w, 8] for w in (1, 4, 8)}) == 1
    assert prints[1, 2] == prints[8, 7]
    assert len(set(prints.values())) == 3  # a byte, less, and signs where what is read has a sign


def test_by_weights_sums_are_told_apart_by_their_bits_and_nothing_else_is():
    graph = graphs.residual()
    table = replace(invented(), by_weights=True)
    keys = {w: [table.key(work) for work in network_works(graphs.blueprint(graph, w, 8))] for w in (4, 8)}
    plain = [work.key for work in network_works(graphs.blueprint(graph, 8, 8))]
    own = [i for i, (four, eight) in enumerate(zip(keys[4], keys[8], strict=True)) if four != eight]
    assert {keys[4][i] for i in own} == {f"{plain[i]}, weights of 4 bits" for i in own}
    assert {plain[i] for i in range(len(plain)) if i not in own} == {
        key for key in plain if not key.startswith(("conv", "linear"))
    }
    assert len({table.fingerprint(graphs.blueprint(graph, w, 8)) for w in (1, 4, 8)}) == 3

    # Priced by the bits that each layer has: 100 ns for each of them in every layer with weights, else nothing.
    entries = {
        table.key(work): timing(100 * work.weights if isinstance(work.weights, int) else 0)
        for bits in (2, 8)
        for work in network_works(graphs.blueprint(graph, bits, 8))
    }
    costs = {"latency": latency_cost(replace(table, call=timing(0), entries=entries))}
    names = [layer.name for layer in graph.layers]
    widths = {name: 2 if i % 2 else 8 for i, name in enumerate(names)}
    mixed = {name: Bits(weight=width, activation=8) for name, width in widths.items()}
    bits = sum(widths[name] * len(graph.uses[name]) for name in names)
    assert exact("latency", graph, mixed, costs) == pytest.approx(1e-7 * bits)
    with pytest.raises(RecipeError, match=r"no time for .*, weights of 4 bits"):
        exact("latency", graph, graphs.uniform_bits(graph, 4, 8), costs)
    filters = mixed | {names[0]: Bits(weight=(8,) * (graph[names[0]].shape[0] - 1) + (2,), activation=8)}
    with pytest.raises(RecipeError, match=f"the filters of '{names[0]}' differ in bits"):
        exact("latency", graph, filters, costs)


def test_what_the_table_lacks_is_refused_with_layer_and_command():
    graph = graphs.residual()
    table = invented(graphs.blueprint(graph, 8, 8))
    costs = {"latency": latency_cost(table)}
    narrow = graphs.blueprint(graph, 8, 4)
    assert exact("latency", graph, graphs.uniform_bits(graph, 2, 8), costs) > 0
    with pytest.raises(RecipeError, match=r"no time for 'x' \(input 3x8x8, onto signed\).*bitsmith profile"):
        exact("latency", graph, narrow.bits, costs)
    assert set(table.missing_keys(narrow)) == {
        "input 3x8x8, onto signed", "narrow 4x8x8, unsigned to unsigned", "clip 4x8x8", "clip 8x4x4", "clip 8x1x1"
    }  # fmt: skip
    with pytest.raises(RecipeError, match="layer 'stem' stays float"):
        exact("latency", graph, graphs.uniform_bits(graph, FLOAT, FLOAT), costs)


def test_entries_that_a_table_has_stay():
    table = invented(graphs.blueprint(graphs.chain(), 8, 8))
    key = next(iter(table.entries))
    more = table.with_entries({key: timing(1), "new": timing(2)}, ["a", "a"])
    assert more.entries == {**table.entries, "new": timing(2)}
    assert more.networks == ("a",)


def test_a_table_comes_back_from_its_file(tmp_path):
    table = invented(graphs.blueprint(graphs.modern(), 8, 4)).with_entries({}, ["abc"])
    table.write(tmp_path / "latency.json")
    back = read_latency_table(tmp_path / "latency.json")
    assert (back.setting, back.call, back.entries, back.networks) == (SETTING, table.call, table.entries, ("abc",))
    assert [path.name for path in tmp_path.iterdir()] == ["latency.json"]


DAMAGES = {
    "half of it": lambda text: text[: len(text) // 2],
    "a list": lambda text: "[1, 2]",
    "another schema": lambda text: text.replace('"schema": 2', '"schema": 7'),
    "a negative time": lambda text: text.replace('"nanoseconds": 5000', '"nanoseconds": -1'),
    "no time": lambda text: text.replace('"nanoseconds": 5000', '"nanoseconds": null'),
    "a fraction": lambda text: text.replace('"nanoseconds": 5000', '"nanoseconds": 0.5'),
    "an unknown field": lambda text: text.replace('"threads"', '"thread"'),
    "words for threads": lambda text: text.replace('"threads": 1', '"threads": "two"'),
    "a word for yes": lambda text: text.replace('"by_weights": false', '"by_weights": "no"'),
    "entries in a list": lambda text: json.dumps({**json.loads(text), "entries": [1]}),
    "networks of numbers": lambda text: json.dumps({**json.loads(text), "networks": [1]}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_refused_by_name(tmp_path, damage):
    file = tmp_path / "latency.json"
    invented(graphs.blueprint(graphs.chain())).write(file)
    text = file.read_text()
    file.write_text(damage(text))
    assert file.read_text() != text
    with pytest.raises(RunError, match=r"latency\.json"):
        read_latency_table(file)


def test_a_missing_file_says_what_measures_one(tmp_path):
    with pytest.raises(RunError, match="bitsmith profile"):
        read_latency_table(tmp_path / "latency.json")
