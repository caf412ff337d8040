"""Sequence spaces as YAML."""

import pytest
from hypothesis import given
from sequences import sequence_descriptions

from bitsmith.errors import RecipeError
from bitsmith.files import read_yaml
from bitsmith.space import (
    SEQUENCE_SPACES,
    SequenceSpace,
    Stem,
    dump_sequence_space,
    parse_sequence_space,
    read_sequence_space,
)

TEXT = """
stem: {channels: 8, stride: 2}
channels: {min: 8, max: 32, step: 8}
layers: [2, 4]
strided: 1
operators: conv
kernels: 3
skips: [0, 1]
narrowing: yes
weight_bits: [4, 8]
"""


def test_every_form(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(TEXT)
    assert read_sequence_space(path) == SequenceSpace(
        stem=Stem(channels=8, stride=2),
        channels=(8, 16, 24, 32),
        layers=(2, 4),
        strided=(1, 1),
        operators=("conv",),
        kernels=(3,),
        skips=(0, 1),
        narrowing=True,
        weight_bits=(4, 8),
    )


@given(description=sequence_descriptions())
def test_dumped_and_parsed(description, tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "space.yaml"
    path.write_text(dump_sequence_space(description))
    assert read_sequence_space(path) == description
    assert parse_sequence_space(read_yaml(path, "space", "fields"), "x") == description


def test_presets_spelled_out():
    for space in SEQUENCE_SPACES.values():
        assert "expansion: 3" in dump_sequence_space(space)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stem": {"width": 8}}, r"^my.yaml: stem, channels: is missing \(and 1 more problems\)"),
        ({"stem": {"channels": 8, "width": 8}}, "stem, width: there is no such field; there are channels, stride"),
        ({"depth": 3}, "depth: there is no such field; there are stem, channels, layers, strided"),
        ({"operators": ["gru"]}, "operators, 0: Input should be 'conv', 'separable', 'inverted' or 'max_pool'"),
        ({"channels": {"min": 8, "max": 9}}, "channels: a range has min, max and step"),
        ({"kernels": [2]}, "^my.yaml: kernels: must be odd, got 2"),
    ],
)
def test_mistakes_are_named(changes, words):
    with pytest.raises(RecipeError, match=words):
        parse_sequence_space({"stem": {"channels": 8}, "channels": [8]} | changes, "my.yaml")


def test_no_mapping():
    with pytest.raises(RecipeError, match="is not a space: it must be a mapping with stem and channels"):
        parse_sequence_space([1], "my.yaml")
