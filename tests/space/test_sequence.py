"""Sequence spaces against their own enumeration and the costs of graphs."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import sequence_descriptions, sequences, tiny_sequences

from bitsmith.blueprint import Bits, Blueprint
from bitsmith.cost import price
from bitsmith.errors import RecipeError, RunError
from bitsmith.quantize import build
from bitsmith.space import (
    ADDITIVE,
    SEQUENCE_SPACES,
    Automaton,
    Sequences,
    SequenceSpace,
    Space,
    Stem,
    Token,
    canonical,
)
from bitsmith.space.sequence_edits import EDITS, Edits


def examples(reduced: int) -> int:
    """How many of a property that builds networks: few in the reduced tier."""
    return max(reduced, settings().max_examples if settings().max_examples > 25 else 0)


SIDES = {"sequence-28": 28, "sequence-32": 32, "sequence-96": 96}


def by_hand(space: SequenceSpace) -> list[tuple[Token, ...]]:
    """All networks of a space, from the rules as docs/spaces.md words them, by trying every sequence there is."""
    found = []
    for length in range(space.layers[0], space.layers[1] + 1):
        for layers in itertools.product(space.tokens, repeat=length):
            shapes, ok = [(space.stem.channels, 0)], True  # (channels, halvings) of every tensor
            for token in layers:
                channels, halvings = shapes[-1]
                width = channels if token.operator == "max_pool" else token.channels
                shapes.append((width, halvings + (token.stride == 2)))
                reached = token.skip == 0 or (token.skip < len(shapes) and shapes[-1 - token.skip] == shapes[-1])
                ok = ok and reached and (width >= channels or space.narrowing)
            if ok and space.strided[0] <= shapes[-1][1] <= space.strided[1]:
                found.append(layers)
    return found


CASES = [
    tiny_sequences(),
    tiny_sequences(operators=("conv",), layers=(2, 4), strided=(0, 1), narrowing=True, stem=Stem(channels=8)),
    tiny_sequences(operators=("conv", "max_pool"), channels=(4,), skips=(0, 1, 3), layers=(3, 5), strided=(2, 2)),
    tiny_sequences(operators=("separable",), channels=(4, 6, 8), skips=(0,), layers=(2, 2), weight_bits=(2, 8)),
]


@pytest.mark.parametrize("description", CASES)
def test_the_networks_are_those_that_the_rules_allow(description):
    automaton, wanted = Automaton(description), by_hand(description)
    rows = np.array([automaton.at(number) for number in range(automaton.count())])
    assert automaton.count() == len(wanted)
    assert {automaton.layers(row) for row in rows} == set(wanted)
    assert automaton.valid(rows).all()


def test_only_those_are_valid():
    """Of all rows of tokens, the walk and the mask accept what the enumeration holds."""
    description = tiny_sequences(operators=("conv", "max_pool"), skips=(0, 2), channels=(4,))
    automaton = Automaton(description)
    every = np.array(list(itertools.product(range(len(automaton.tokens)), repeat=automaton.length)))
    wanted = {tuple(automaton.at(number)) for number in range(automaton.count())}
    valid = automaton.valid(every)
    assert {tuple(row) for row in every[valid]} == wanted
    masked = set()  # what the mask leads to, step by step
    for row in every:
        state, ended, ok = 0, False, True
        for at, token in enumerate(row):
            ok = ok and (token == 0 if ended else bool(automaton.allowed[at, state, token]))
            ended, state = ended or token == 0, int(automaton.next[state, token])
        if ok and (ended or automaton.allowed[automaton.length, state, 0]):
            masked.add(tuple(row))
    assert masked == wanted


def test_the_docstrings_count():
    space = tiny_sequences(
        operators=("conv",), channels=(4,), layers=(1, 2), strided=(0, 0), skips=(0, 1), weight_bits=(4, 8)
    )
    assert sequences(space).count() == 4 + 4**2


def test_equal_networks_have_equal_canonical_forms():
    """Every network of a space once; and pools that say more than they are."""
    space = sequences(tiny_sequences(layers=(1, 2), skips=(0, 1)))
    blueprints = [space.at(number) for number in range(space.count())]
    assert len({blueprint.to_json() for blueprint in blueprints}) == space.count()
    assert len({space.key(blueprint) for blueprint in blueprints}) == space.count()
    assert len({space.digest(blueprint) for blueprint in blueprints}) == space.count()
    conv = Token(operator="conv", kernel=3, channels=8, weight_bits=4, activation_bits=8)
    loud = Token(operator="max_pool", kernel=2, channels=8, stride=2, skip=1, weight_bits=8)
    quiet = canonical([conv, loud])
    assert quiet == (conv, Token(operator="max_pool", stride=2))
    assert canonical(quiet) == quiet
    assert space.build((conv, loud)) == space.build(quiet)
    assert space.digest(space.build((conv, loud))) == space.digest(space.build(quiet))


@settings(max_examples=examples(12))
@given(description=sequence_descriptions(), seed=st.integers(0, 10**6))
def test_encode_and_decode_are_inverse(description, seed):
    space, generator = sequences(description, side=18), np.random.default_rng(seed)
    blueprint = space.sample(generator)
    row = space.encode(blueprint)
    assert row.dtype == np.int64
    assert row.shape == space.sizes.shape
    assert space.decode(row) == blueprint == Blueprint.from_json(blueprint.to_json())
    other, length = row.copy(), int((row > 0).sum())
    other[length + 1 :] = generator.integers(space.sizes)[length + 1 :]  # behind its end
    assert space.decode(other) == blueprint
    assert np.array_equal(space.encode(space.decode(other)), row)
    assert [name for name in space.options if name in blueprint.bits] == [la.name for la in blueprint.graph.layers]
    assert all(bits.weight in space.options[name].weight for name, bits in blueprint.bits.items())
    operators = {node.op for graph in space.graphs for node in graph.nodes}
    assert {node.op for node in blueprint.graph.nodes} <= operators


@settings(max_examples=examples(12))
@given(description=sequence_descriptions(), seed=st.integers(0, 10**6))
def test_costs_of_many_are_those_of_each(description, seed):
    space, generator = sequences(description, side=19), np.random.default_rng(seed)
    rows = space.additive.stratified(3, generator)
    for row, costs in zip(rows, space.additive.of(rows), strict=True):
        blueprint = space.decode(row)
        priced = price(blueprint.graph, blueprint.bits)
        assert [priced[name] for name in ADDITIVE] == costs.tolist()


@settings(max_examples=examples(6))
@given(description=sequence_descriptions(), seed=st.integers(0, 10**6))
def test_every_network_computes_and_learns(description, seed):
    space, generator = sequences(description, side=18), np.random.default_rng(seed)
    network = build(space.sample(generator))
    logits = network(torch.randn(2, 3, 18, 18, generator=torch.Generator().manual_seed(seed)))
    assert logits.shape == (2, 3)
    functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@settings(max_examples=examples(12))
@given(description=sequence_descriptions(), seed=st.integers(0, 10**6))
def test_mutations_and_neighbors_stay_inside(description, seed):
    space, generator = sequences(description, side=18), np.random.default_rng(seed)
    blueprint = space.sample(generator)
    if any(len(space.edits.edits(space.encode(blueprint), kind)) for kind in EDITS):
        moved = space.mutate(blueprint, generator)
        assert space.contains(moved)
        assert moved != blueprint
        assert 0 < space.distance(blueprint, moved) <= 1
    near = space.neighbors(blueprint)
    assert blueprint not in near
    assert len({other.to_json() for other in near}) == len(near)
    for other in near[:: max(1, len(near) // 2)]:
        assert blueprint in space.neighbors(other)
    for raised in space.raised(space.encode(blueprint)):
        higher = space.decode(raised)
        assert higher.graph == blueprint.graph
        assert higher.bits != blueprint.bits


def test_least_and_most_are_those_of_the_enumeration():
    space = sequences(CASES[0], side=9)
    costs = space.additive.of(np.array([space.automaton.at(number) for number in range(space.count())]))
    for k, name in enumerate(ADDITIVE):
        assert space.additive.ranges[name] == (costs[:, k].min(), costs[:, k].max())
    largest = space.uniform(4, 8)
    assert price(largest.graph, largest.bits)["macs"] == costs[:, 2].max()


def test_draws_are_uniform():
    """Chi-square over the whole space; drawn by length, over the lengths."""
    automaton, generator = Automaton(CASES[2]), np.random.default_rng(0)
    count, n = automaton.count(), 40_000
    number = {tuple(automaton.at(i)): i for i in range(count)}
    drawn = np.bincount([number[tuple(row)] for row in automaton.draw(n, generator)], minlength=count)
    expected = n / count
    assert ((drawn - expected) ** 2 / expected).sum() < count + 4 * np.sqrt(2 * count)
    lengths = np.bincount((automaton.draw(3000, generator, by_length=True) > 0).sum(1), minlength=6)[3:]
    assert np.all(np.abs(lengths - 1000) < 130)


def test_strata_are_even():
    """Every half decade of MACs in between holds its share; of uniform draws nearly all lie in one."""
    space = sequences(SEQUENCE_SPACES["sequence-32"], side=32)
    rows = space.additive.stratified(600, np.random.default_rng(0))
    low, high = np.log(space.additive.ranges["macs"])
    place = (np.log(space.additive.of(rows)[:, 2]) - low) / (high - low)
    shares = np.histogram(place, 6, (0, 1))[0] / 600
    assert shares[:5].min() > 0.12
    assert np.histogram(place, 6, (0, 1))[0].sum() == 600
    assert space.automaton.valid(rows).all()


def recursive(a, b, cost):
    """The edit distance by its definition."""
    if not len(a) or not len(b):
        return float(len(a) + len(b))
    return min(
        recursive(a[1:], b, cost) + 1,
        recursive(a, b[1:], cost) + 1,
        recursive(a[1:], b[1:], cost) + cost(a[0], b[0]),
    )


def test_edit_distances_are_a_metric():
    automaton, generator = Automaton(tiny_sequences(weight_bits=(2, 4), layers=(1, 4))), np.random.default_rng(0)
    edits = Edits(automaton)
    a, b, c = (automaton.draw(300, generator, by_length=True) for _ in range(3))
    ab, bc, ac = edits.distances(a, b), edits.distances(b, c), edits.distances(a, c)
    np.testing.assert_allclose(ab, edits.distances(b, a))
    assert np.all(edits.distances(a, a) == 0)
    assert np.array_equal(ab == 0, (a == b).all(1))
    assert np.all(ac <= ab + bc + 1e-12)
    fields = ("operator", "kernel", "channels", "stride", "skip", "weight_bits", "activation_bits")

    def cost(x, y):
        return sum(getattr(x, f) != getattr(y, f) for f in fields) / len(fields)

    for i in range(25):
        layers = automaton.layers(a[i]), automaton.layers(b[i])
        assert ab[i] == pytest.approx(recursive(*layers, cost))


@pytest.mark.parametrize("name", SIDES)
def test_presets(name):
    space = Sequences(description=SEQUENCE_SPACES[name], input_shape=(3, SIDES[name], SIDES[name]), outputs=10)
    assert isinstance(space, Space)
    assert space.count() > 10**10
    generator = np.random.default_rng(0)
    blueprint = space.sample(generator)
    assert space.contains(space.mutate(blueprint, generator))
    keys = [space.key(other) for other in space.uniforms()]
    assert len(set(keys)) == len(keys) > 20
    assert space.sample(np.random.default_rng(5)) == space.sample(np.random.default_rng(5))


def test_what_is_outside():
    space = sequences(tiny_sequences(weight_bits=(4, 8)))
    blueprint = space.at(7)
    strangers = [
        sequences(tiny_sequences(), side=16).at(0),
        sequences(tiny_sequences(stem=Stem(channels=2))).at(0),
        sequences(tiny_sequences(weight_bits=(2,))).at(0),
        sequences(tiny_sequences(ends=4)).at(0),
        sequences(tiny_sequences(layers=(4, 4))).at(0),
        sequences(tiny_sequences(), quantizer="pact").at(0),
        blueprint.with_bits({**blueprint.bits, "classifier": Bits(weight=4, activation=8)}),
    ]
    assert space.contains(blueprint)
    for stranger in strangers:
        assert not space.contains(stranger)
        with pytest.raises(RunError, match="not of this space"):
            space.encode(stranger)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([{"skip": 2}], "layer 1, conv k3 c4 s1 skip2 w4a8: no tensor of its shape lies 2 back"),
        ([{"channels": 8}, {}], "layer 2, conv k3 c4 s1 w4a8: it is narrower than what it reads, 8 channels"),
        ([{"stride": 2}] * 3, "layer 3, .*: there are 2 layers of stride 2 already"),
        ([{}], "0 layers of stride 2; this space has networks of 1 or more"),
        ([{}] * 4, "4 layers; this space has networks of 1 to 3"),
        ([{"kernel": 5}], "layer 1, conv k5 c4 s1 w4a8: no layer of this space"),
    ],
)
def test_layers_that_cannot_stand_there_are_named(changes, words):
    conv = Token(operator="conv", kernel=3, channels=4, weight_bits=4, activation_bits=8)
    with pytest.raises(RunError, match=words):
        sequences(tiny_sequences()).build(tuple(replace(conv, **change) for change in changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stem": Stem(channels=0)}, r"^stem\.channels: must be at least 1, got 0"),
        ({"stem": Stem(channels=4, stride=3)}, r"^stem\.stride: must be one of 1, 2, got 3"),
        ({"channels": (8, 4)}, r"^channels: options must be positive, once each and rising, got \[8, 4\]"),
        ({"channels": (2, 4)}, r"^channels: 2 is narrower than the stem \(4\), so no layer can have it"),
        ({"kernels": (2,)}, "^kernels: must be odd, got 2"),
        ({"skips": (1, 2)}, "^skips: must hold 0"),
        ({"operators": ()}, "^operators: at least one"),
        ({"operators": ("gru",)}, "^operators: must be of conv, separable, inverted, max_pool, got gru"),
        ({"layers": (0, 2)}, r"^layers: fewest and most must rise from 1 on, got 0\.\.2"),
        ({"strided": (2, 1)}, r"^strided: fewest and most must rise from 0 on, got 2\.\.1"),
        ({"strided": (4, 4)}, "^strided: 4 layers of stride 2 don't fit in 3 layers"),
        ({"expansion": 0}, "^expansion: must be at least 1"),
        ({"weight_bits": (9,)}, r"bits of the space: weight bits must be 1\.\.8"),
        ({"channels": tuple(range(4, 700))}, "different layers are more than 5,000; allow fewer options"),
    ],
)
def test_wrong_spaces(changes, words):
    with pytest.raises(RecipeError, match=words):
        tiny_sequences(**changes)


def test_a_map_smaller_than_a_kernel():
    assert sequences(tiny_sequences(), side=5).count() > 0  # 5, 3, 2
    with pytest.raises(RecipeError, match=r"^strided: of images of 4x4 pixels 1 are left after 2 layers of stride 2"):
        sequences(tiny_sequences(), side=4)


def test_a_space_of_one_network():
    space = sequences(tiny_sequences(operators=("conv",), channels=(4,), skips=(0,), layers=(1, 1), strided=(1, 1)))
    assert space.count() == 1
    assert space.neighbors(space.at(0)) == ()
    with pytest.raises(RecipeError, match="nothing can be mutated"):
        space.mutate(space.at(0), np.random.default_rng(0))
