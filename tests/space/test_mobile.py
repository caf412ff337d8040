"""Mobile spaces against their own enumeration."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spaces import descriptions

from bitsmith.blueprint import FLOAT, Bits, Blueprint, InputContract, Options
from bitsmith.cost import price
from bitsmith.errors import RecipeError, RunError
from bitsmith.quantize import build, float_blueprint
from bitsmith.space import MOBILE_SPACES, Mobile, MobileSpace, Stage, Stem


def tiny(**changes) -> MobileSpace:
    """Two stages, with every kind of choice somewhere."""
    first = Stage(channels=(4, 8), expansions=(1.0, 2.0), kernels=(3,), squeeze_excite=(False,), activations=("relu",))
    second = Stage(channels=(8,), blocks=(1, 2), stride=2, expansions=(1.5,), squeeze_excite=(True,))
    fields = {
        "stem": Stem(channels=4),
        "stages": (first, second),
        "weight_bits": (2, 8),
        "activation_bits": (8,),
        "divisor": 2,
    }
    return MobileSpace(**(fields | changes))


def mobile(description: MobileSpace, side: int = 18, **changes) -> Mobile:
    return Mobile(description=description, input_shape=(3, side, side), outputs=3, **changes)


def test_the_docstrings_count():
    stage = Stage(channels=(8, 16), blocks=(1, 2), expansions=(3.0,), squeeze_excite=(False,))
    space = MobileSpace(stem=Stem(channels=8), stages=(stage,), weight_bits=(2, 8), activation_bits=(8,))
    assert mobile(space).count() == 2 * (8 + 8**2) == 144


@pytest.mark.parametrize("bits", ["block", "layer"])
def test_the_count_is_the_number_of_different_blueprints(bits):
    """By hand too: a first block has 2 expansions, a second 2 kernels; two weight bits for each part."""
    first, second = tiny().stages
    space = mobile(
        tiny(bits=bits, stages=(first, replace(second, activations=("relu",), blocks=(1, 1 + (bits == "block")))))
    )
    blueprints = [space.at(number) for number in range(space.count())]
    assert len({blueprint.to_json() for blueprint in blueprints}) == space.count()
    if bits == "block":
        assert space.count() == 2 * (2 * 2) * ((2 * 2) + (2 * 2) ** 2)
    else:  # with expansion 1 there is no expanding convolution to have bits
        assert space.count() == 2 * (2**2 + 2**3) * (2 * 2**3)
    for number, blueprint in enumerate(blueprints):
        assert np.array_equal(space.encode(blueprint), space.decisions.at(number))


@given(description=descriptions(), seed=st.integers(0, 10**6))
def test_encode_and_decode_are_inverse(description, seed):
    space, generator = mobile(description), np.random.default_rng(seed)
    blueprint = space.sample(generator)
    indices = space.encode(blueprint)
    assert indices.dtype == np.int64
    assert indices.shape == space.sizes.shape
    assert space.decode(indices) == blueprint == Blueprint.from_json(blueprint.to_json())
    # What is chosen for blocks that aren't there is not part of the network, nor of its encoding.
    other = np.where(space.decisions.active(indices), indices, generator.integers(space.sizes))
    assert space.decode(other) == blueprint
    assert np.array_equal(space.encode(space.decode(other)), indices)


@given(description=descriptions(), seed=st.integers(0, 10**6))
def test_mutations_and_neighbors_stay_inside(description, seed):
    space, generator = mobile(description), np.random.default_rng(seed)
    blueprint = space.sample(generator)
    if np.any(space.decisions.active(space.encode(blueprint)) & (space.sizes > 1)):
        moved = space.mutate(blueprint, generator)
        assert space.contains(moved)
        assert moved != blueprint
    near = space.neighbors(blueprint)
    assert len({other.to_json() for other in near}) == len(near)
    for other in near[:: max(1, len(near) // 2)]:
        assert np.abs(space.encode(other) - space.encode(blueprint)).sum() == 1
        assert blueprint in space.neighbors(other)


@given(description=descriptions(), seed=st.integers(0, 10**6))
def test_options_are_the_bits_that_layers_have(description, seed):
    space, generator = mobile(description), np.random.default_rng(seed)
    for blueprint in (space.sample(generator) for _ in range(3)):
        assert set(blueprint.bits) <= set(space.options)
        assert [name for name in space.options if name in blueprint.bits] == [la.name for la in blueprint.graph.layers]
        for name, bits in blueprint.bits.items():
            assert bits.weight in space.options[name].weight
            assert bits.activation in space.options[name].activation
    every = set()  # no layer is promised that never comes
    for expansion in (0, -1):
        indices = space.sizes - 1
        for i, decision in enumerate(space.decisions.decisions):
            if decision.name.endswith("expansion"):
                indices[i] = indices[i] if expansion else 0
        every |= set(space.decode(indices).bits)
    assert every == set(space.options)


def test_ends_and_gates():
    space = mobile(tiny(ends=7, activation_bits=(4,), weight_bits=(2,)))
    assert space.options["stem"] == space.options["classifier"] == Options(weight=(7,), activation=(7,))
    assert space.options["stage2.block1.squeeze"] == Options(weight=(2,), activation=(7,))
    blueprint = space.uniform(2, 4)
    assert blueprint.bits["stage2.block2.excite"] == Bits(weight=2, activation=7)
    assert blueprint.bits["stage2.block2.expand"] == Bits(weight=2, activation=4)


def test_one_convolution_apart_where_layers_have_their_own_bits():
    space = mobile(tiny(bits="layer"))
    blueprint = space.decode(np.zeros_like(space.sizes))
    at = space.decisions.index["stage2.block1.project.weight_bits"]
    moved = space.decode(np.eye(len(space.sizes), dtype=np.int64)[at])
    assert {name for name in moved.bits if moved.bits[name] != blueprint.bits[name]} == {
        "stage2.block1.project",
        "stage2.block1.squeeze",
        "stage2.block1.excite",
    }


def test_uniform_is_the_largest_network_at_the_nearest_bits():
    space = mobile(replace(tiny(), weight_bits=(2, 4, 8), head=(8, 16)))
    blueprint = space.uniform(3, 1)
    assert blueprint.bits["head"] == blueprint.bits["stage2.block2.project"] == Bits(weight=4, activation=8)
    assert blueprint.graph["head"].shape[0] == 16
    assert blueprint.graph["stage1.block1.expand"].shape[0] == 8
    most = price(blueprint.graph, blueprint.bits)["macs"]
    others = [space.at(number) for number in range(0, space.count(), space.count() // 20)]
    assert all(price(other.graph, other.bits)["macs"] <= most for other in others)


def test_what_is_outside():
    space = mobile(tiny())
    blueprint = space.uniform(2, 8)
    strangers = [
        mobile(tiny(), side=8).uniform(2, 8),
        mobile(tiny(stem=Stem(channels=6))).uniform(2, 8),
        mobile(tiny(divisor=8)).uniform(2, 8),
        mobile(tiny(weight_bits=(3,))).uniform(3, 8),
        mobile(tiny(), quantizer="pact").uniform(2, 8),
        mobile(tiny(), input=InputContract(kind="uint8", mean=(0.5,) * 3, std=(0.2,) * 3)).uniform(2, 8),
        mobile(tiny(head=(8,))).uniform(2, 8),
        mobile(replace(tiny(), stages=tiny().stages[:1])).uniform(2, 8),
        blueprint.with_bits({**blueprint.bits, "stage2.block2.squeeze": Bits(weight=8, activation=8)}),
        blueprint.with_bits({**blueprint.bits, "classifier": Bits(weight=FLOAT, activation=FLOAT)}),
    ]
    assert space.contains(blueprint)
    for stranger in strangers:
        assert not space.contains(stranger)
        with pytest.raises(RunError, match="not of this space"):
            space.encode(stranger)


def test_a_space_of_one_network():
    stage = Stage(channels=(4,), kernels=(3,), expansions=(1.0,), squeeze_excite=(False,), activations=("relu",))
    space = mobile(MobileSpace(stem=Stem(channels=4), stages=(stage,), weight_bits=(4,), activation_bits=(4,)))
    assert space.count() == 1
    assert space.neighbors(space.at(0)) == ()
    with pytest.raises(RecipeError, match="nothing can be mutated"):
        space.mutate(space.at(0), np.random.default_rng(0))


def test_a_stage_may_vanish_where_nothing_changes_shape():
    plain = {"kernels": (3,), "expansions": (2.0,), "squeeze_excite": (False,), "activations": ("relu",)}
    stages = (Stage(channels=(4,), blocks=(0, 2), **plain), Stage(channels=(8,), stride=2, **plain))
    space = mobile(MobileSpace(stem=Stem(channels=4), stages=stages, weight_bits=(4,), activation_bits=(4,)))
    blueprints = [space.at(number) for number in range(space.count())]
    assert [len(blueprint.graph.layers) for blueprint in blueprints] == [5, 8, 11]
    assert ["stage1.block1.add" in {node.name for node in b.graph.nodes} for b in blueprints] == [False, True, True]
    assert [space.encode(blueprint).tolist() for blueprint in blueprints] == [
        space.decisions.at(number).tolist() for number in range(3)
    ]


@pytest.mark.parametrize(
    ("name", "side"), [("mobile-32", 28), ("mobile-32", 32), ("mobile-64", 64), ("mobile-224", 224)]
)
def test_presets(name, side):
    space = Mobile(description=MOBILE_SPACES[name], input_shape=(1, side, side), outputs=10)
    assert space.count() > 10**30
    generator = np.random.default_rng(0)
    blueprint = space.sample(generator)
    assert space.contains(blueprint)
    assert space.contains(space.mutate(blueprint, generator))
    costs = price(blueprint.graph, blueprint.bits)
    assert costs["params"] == sum(p.numel() for p in build(float_blueprint(blueprint.graph)).parameters())
    # Room for kilobytes: the least network is small, whatever the image.
    least = space.decode(np.zeros_like(space.sizes))
    assert price(least.graph, least.bits)["size"] < {28: 8_000, 32: 8_000, 64: 12_000, 224: 60_000}[side]


def test_the_same_seed_draws_the_same():
    space = mobile(tiny())
    assert space.sample(np.random.default_rng(5)) == space.sample(np.random.default_rng(5))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stem": Stem(channels=0)}, r"^stem\.channels: must be at least 1, got 0"),
        ({"stem": Stem(channels=4, stride=3)}, r"^stem\.stride: must be one of 1, 2, got 3"),
        ({"divisor": 0}, "^divisor: must be at least 1"),
        ({"activation": "gelu"}, "^activation: must be one of relu, relu6, hard_swish, got gelu"),
        ({"bits": "network"}, "^bits: must be one of block, layer, got network"),
        ({"weight_bits": (9,)}, r"bits of the space: weight bits must be 1\.\.8"),
        ({"activation_bits": ()}, "bits of the space: bit-widths must be given"),
        ({"ends": 0}, r"must be 1\.\.8"),
        ({"head": (8, 4)}, r"^head: options must be positive, once each and rising, got \[8, 4\]"),
        ({"stages": ()}, "^stages: a space needs at least one"),
    ],
)
def test_wrong_spaces(changes, words):
    with pytest.raises(RecipeError, match=words):
        tiny(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": ()}, "channels: options must be"),
        ({"channels": (8, 8)}, "channels: options must be positive, once each"),
        ({"stride": 4}, "stride: must be one of 1, 2, got 4"),
        ({"blocks": (3, 2)}, r"blocks: fewest and most must rise from 0 on, and most be 1, got 3\.\.2"),
        ({"blocks": (0, 0)}, "blocks: fewest and most"),
        ({"blocks": (0, 2)}, "blocks: all can't be left out, since the first one changes the shape"),
        ({"kernels": (3, 4)}, "kernels: must be odd, got 4"),
        ({"kernels": (-1,)}, "kernels: options must be positive"),
        ({"expansions": (0.0,)}, "expansions: options must be positive"),
        ({"expansions": (1.5, 1.6)}, r"expansions: 1\.5 and 1\.6 both give 6 hidden channels from 4; .* divisor \(2\)"),
        ({"squeeze_excite": (True, True)}, "squeeze_excite: at least one option, each once"),
        ({"activations": ("silu",)}, "activations: must be one of relu, relu6, hard_swish, got silu"),
    ],
)
def test_wrong_stages_are_named(changes, words):
    first, second = tiny().stages
    with pytest.raises(RecipeError, match=f"^stage 2, {words}"):
        tiny(stages=(first, replace(second, **changes)))


def test_a_stride_on_one_pixel():
    stage = Stage(channels=(4,), stride=2, expansions=(2.0,))
    description = MobileSpace(stem=Stem(channels=4), stages=(stage, stage, stage))
    assert mobile(description, side=5).count() > 0  # 5, 3, 2, 1
    with pytest.raises(RecipeError, match=r"^stage 3, stride: of an image of 4x4 pixels one is left there"):
        mobile(description, side=4)
