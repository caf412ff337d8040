"""The precision space against its own enumeration."""

import itertools

import graphs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.blueprint import Bits, Blueprint, Options
from bitsmith.errors import RecipeError, RunError
from bitsmith.space.precision import Precision, precision


@pytest.fixture
def small() -> Precision:
    """Three layers: ends at 8 bits, the middle at 2, 3, 4 x 4, 8."""
    return precision(graphs.blueprint(graphs.chain((4, 6))), (2, 3, 4), (4, 8))


def everything(space: Precision) -> list[Blueprint]:
    return [
        space.decode(np.array(flat).reshape(-1, 2)) for flat in itertools.product(*(range(n) for n in space.sizes.flat))
    ]


def test_ends_are_pinned_and_free_layers_are_not(small):
    end = Options(weight=(8,), activation=(8,))
    assert dict(small.options) == {"conv0": end, "conv1": Options(weight=(2, 3, 4), activation=(4, 8)), "fc": end}
    assert small.count() == 6


def test_ends_of_branches():
    s = graphs.Sketch()
    y = s.same("add", "add", s.conv("left", "x", 4), s.conv("right", s.same("relu", "relu", "x"), 4))
    y = s.conv("middle", y, 4)
    out = s.same("add", "add2", s.conv("up", y, 5), s.conv("down", y, 5))
    graph = s.graph(s.flatten("flat", s.global_pool("pool", out)))
    space = precision(graphs.blueprint(graph), (2,), (2,), ends=8)
    assert {name for name, options in space.options.items() if options.weight == (8,)} == {
        "left",
        "right",
        "up",
        "down",
    }


def test_resnet8_of_the_docstring():
    template = graphs.blueprint(graphs.resnet8())
    assert len(template.bits) == 10
    assert precision(template, (2, 3, 4)).count() == 3**8 == 6561
    assert precision(template, (2, 3, 4), ends=None).count() == 3**10


def test_pins_go_before_ends():
    space = precision(
        graphs.blueprint(graphs.chain((4, 6))), (2, 4), (4,), pins={"conv0": 4, "conv1": Bits(weight=3, activation=8)}
    )
    assert space.options["conv0"] == Options(weight=(4,), activation=(4,))
    assert space.options["conv1"] == Options(weight=(3,), activation=(8,))
    assert space.options["fc"] == Options(weight=(8,), activation=(8,))
    assert space.count() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pins": {"conv9": 8}}, "no such layer; did you mean .*conv1"),
        ({"pins": {"zzz": 8}}, "conv0, conv1, fc"),
        ({"pins": {"conv1": 9}}, "must be 1..8"),
        ({"ends": 0}, "must be 1..8"),
        ({"weight_bits": ()}, "can't be made"),
        ({"activation_bits": (8, 16)}, "got 16"),
    ],
)
def test_wrong_spaces_are_refused(arguments, message):
    with pytest.raises(RecipeError, match=message):
        precision(graphs.blueprint(graphs.chain((4, 6))), **arguments)


def test_options_must_fit_the_network():
    template = graphs.blueprint(graphs.chain((4,)))
    with pytest.raises(RecipeError, match=r"missing \['fc'\], unknown \['gone'\]"):
        Precision(template=template, options=dict.fromkeys(("conv0", "gone"), Options(weight=(8,), activation=(8,))))
    s = graphs.Sketch()
    empty = Blueprint(graph=s.graph(s.same("relu", "relu", "x")), bits={})
    with pytest.raises(RecipeError, match="no conv or linear"):
        precision(empty)


def test_decode_enumerates_the_space_and_encode_inverts_it(small):
    found = everything(small)
    assert (
        len({tuple(sorted((n, b.weight, b.activation) for n, b in bp.bits.items())) for bp in found}) == small.count()
    )
    for blueprint in found:
        assert small.contains(blueprint)
        assert small.decode(small.encode(blueprint)) == blueprint


def test_the_order_of_options_and_of_bits_does_not_matter(small):
    turned = Precision(template=small.template, options=dict(reversed(small.options.items())))
    blueprint = small.uniform(3, 4)
    turned_blueprint = blueprint.with_bits(dict(reversed(blueprint.bits.items())))
    assert turned.encode(turned_blueprint).tolist() == small.encode(blueprint).tolist() == [[0, 0], [1, 0], [0, 0]]


def test_what_is_outside(small):
    low = small.template.with_bits({**small.uniform(2, 4).bits, "conv1": Bits(weight=8, activation=8)})
    other = graphs.blueprint(graphs.chain((4, 7)))
    gaussian = Blueprint(graph=small.template.graph, bits=small.uniform(2, 4).bits, quantizer="gaussian")
    for stranger in (low, other, gaussian, graphs.blueprint(graphs.residual())):
        assert not small.contains(stranger)
        with pytest.raises(RunError, match="not of this space"):
            small.encode(stranger)


def test_samples_are_uniform(small):
    generator = np.random.default_rng(0)
    counts = dict.fromkeys((bp.to_json() for bp in everything(small)), 0)
    draws = 3000
    for _ in range(draws):
        counts[small.sample(generator).to_json()] += 1
    expected = draws / len(counts)
    chi2 = sum((n - expected) ** 2 / expected for n in counts.values())
    assert chi2 < 20.5  # 99.9 % point of chi-squared with 5 degrees of freedom
    same = [small.sample(np.random.default_rng(1)) for _ in range(2)]
    assert same[0] == same[1]


def differing(space: Precision, a: Blueprint, b: Blueprint) -> np.ndarray:
    return (space.encode(a) - space.encode(b))[space.encode(a) != space.encode(b)]


@given(seed=st.integers(0, 10**6))
def test_a_mutation_changes_one_decision(seed):
    space = precision(graphs.blueprint(graphs.residual()), (2, 3, 4, 8), (4, 8))
    generator = np.random.default_rng(seed)
    start = space.sample(generator)
    moved = space.mutate(start, generator)
    assert space.contains(moved)
    assert len(differing(space, start, moved)) == 1


def test_mutation_reaches_every_other_option(small):
    start = small.uniform(3, 4)
    generator = np.random.default_rng(0)
    reached = {small.mutate(start, generator).to_json() for _ in range(200)}
    assert reached == {bp.to_json() for bp in everything(small) if len(differing(small, start, bp)) == 1}


def test_a_space_of_one_has_no_mutation():
    space = precision(graphs.blueprint(graphs.chain((4,))))
    with pytest.raises(RecipeError, match="every layer is pinned"):
        space.mutate(space.uniform(8, 8), np.random.default_rng(0))
    assert space.neighbors(space.uniform(8, 8)) == ()


def test_neighbors_are_one_step_away(small):
    for start in everything(small):
        near = small.neighbors(start)
        expected = [bp for bp in everything(small) if np.abs(differing(small, start, bp)).tolist() == [1]]
        assert sorted(bp.to_json() for bp in near) == sorted(bp.to_json() for bp in expected)


@pytest.mark.parametrize(
    ("asked", "taken"),
    [((3, 8), (4, 8)), ((2, 6), (2, 8)), ((6, 5), (8, 4)), ((7, 1), (8, 4)), ((32, 32), (8, 8)), ((1, 6), (2, 8))],
)
def test_uniform_takes_the_nearest_and_of_two_the_higher(asked, taken):
    space = precision(graphs.blueprint(graphs.chain((4, 6))), (2, 4, 8), (4, 8), pins={"conv0": 3})
    bits = space.uniform(*asked).bits
    assert bits["conv1"] == Bits(weight=taken[0], activation=taken[1])
    assert bits["conv0"] == Bits(weight=3, activation=3)
    assert bits["fc"] == Bits(weight=8, activation=8)
