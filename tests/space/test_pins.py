"""Pins: names, patterns, sides, and what is refused with which words."""

import fnmatch

import graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.blueprint import Bits
from bitsmith.errors import RecipeError
from bitsmith.space import precision, resolve_pins
from bitsmith.space.pins import blame

NAMES = ["stem", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer2.0.conv1", "fc"]


@pytest.mark.parametrize(
    ("pin", "sides"),
    [
        (8, (8, 8)),
        ("8", (8, 8)),
        (" 4 ", (4, 4)),
        ("w4a8", (4, 8)),
        ("w2", (2, None)),
        ("a4", (None, 4)),
        ("float", (32, 32)),
        ("w32a8", (32, 8)),
        (Bits(weight=3, activation=5), (3, 5)),
    ],
)
def test_what_a_pin_says(pin, sides):
    assert resolve_pins(NAMES, {"fc": pin}) == {"fc": sides}


def test_patterns_match_every_layer_of_that_name():
    found = resolve_pins(NAMES, {"layer1.*": 4, "*.conv1": "a8"} | {"layer1.0.conv1": "w2", "layer1.1.conv1": 3})
    assert found == {
        "layer1.0.conv1": (2, None),  # its own name goes before patterns, altogether
        "layer1.1.conv1": (3, 3),
        "layer1.0.conv2": (4, 4),
        "layer2.0.conv1": (None, 8),
    }


def test_patterns_about_different_sides_add_up():
    assert resolve_pins(NAMES, {"layer2.*": "w4", "layer*": "a8"})["layer2.0.conv1"] == (4, 8)
    assert resolve_pins(NAMES, {"layer2.*": "w4a8", "layer*": "a8"})["layer2.0.conv1"] == (4, 8)


@given(st.text(alphabet="*.layer012conv", min_size=1, max_size=10).filter(lambda text: "*" in text))
def test_a_pattern_matches_as_in_the_shell(pattern):
    """Against fnmatch, of which only the star is taken."""
    wanted = {name for name in NAMES if fnmatch.fnmatchcase(name, pattern)}
    if wanted:
        assert set(resolve_pins(NAMES, {pattern: 8})) == wanted
    else:
        with pytest.raises(RecipeError, match="matches no layer"):
            resolve_pins(NAMES, {pattern: 8})


@pytest.mark.parametrize(
    ("pins", "words"),
    [
        ({"layer1.0.conv3": 8}, r"no such layer; did you mean layer1\.0\.conv"),
        ({"zzz": 8}, "it has stem, layer1"),
        ({"layer3.*": 8}, "matches no layer; the network has stem"),
        ({"fc": 9}, "the pin fc=9: weight bits must be 1..8"),
        ({"fc": "a0"}, "the pin fc=a0: activation bits must be 1..8"),
        ({"fc": "a4w4"}, "can't read the pin fc=a4w4; write 8, w4a8, w4, a8 or float"),
        ({"fc": ""}, "can't read the pin fc="),
        ({"fc": "eight"}, "can't read the pin"),
        (
            {"layer1.*": 4, "*conv1": 8},
            r"'layer1\.\*' and '\*conv1' give 'layer1\.0\.conv1' different weight bits, 4 and 8",
        ),
        ({"layer1.*": "a4", "*conv1": "w2a8"}, "different activation bits, 4 and 8; pin 'layer1.0.conv1' by its own"),
    ],
)
def test_refusals(pins, words):
    with pytest.raises(RecipeError, match=words):
        resolve_pins(NAMES, pins)


def test_a_side_that_is_not_pinned_stays_as_it_was():
    """Free in the middle of the network, the ends' bits at its ends."""
    template = graphs.blueprint(graphs.chain((4, 6)))
    space = precision(template, (2, 4), (4, 8), pins={"conv0": "w4", "conv1": "a4"})
    assert (space.options["conv0"].weight, space.options["conv0"].activation) == ((4,), (8,))
    assert (space.options["conv1"].weight, space.options["conv1"].activation) == ((2, 4), (4,))
    assert (space.options["fc"].weight, space.options["fc"].activation) == ((8,), (8,))


def test_bits_out_of_range_are_refused_though_every_layer_is_pinned():
    with pytest.raises(RecipeError, match=r"must be 1\.\.8"):
        precision(graphs.blueprint(graphs.chain((4, 6))), (9,), (8,), pins={"*": 8})


@pytest.mark.parametrize(
    ("pins", "enough", "words"),
    [
        ({"a": 8}, [], ""),
        ({"a": 8}, [{"a"}], "the pin 'a=8' is in the way"),
        ({"a": 8, "b*": "float"}, [{"b*"}], "the pin 'b*=float' is in the way"),
        ({"a": 8, "b": "w4"}, [{"a"}, {"b"}], "the pins 'a=8', 'b=w4' are in the way, one of them is enough"),
        ({"a": 8, "b": "w4"}, [{"a", "b"}], "the pins 'a=8', 'b=w4' are in the way together"),
    ],
)
def test_the_pins_in_the_way_are_those_without_which_it_could_be_done(pins, enough, words):
    """`enough`: sets of pins; without one of them whole, it can be done."""
    assert blame(pins, lambda kept: any(not gone & kept.keys() for gone in enough)) == words
