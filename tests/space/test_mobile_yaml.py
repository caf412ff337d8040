"""Spaces as YAML: what is written, what is refused and with which words."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.errors import RecipeError
from bitsmith.space import MOBILE_SPACES, MobileSpace, Stage, Stem, dump_mobile_space, parse_mobile_space
from bitsmith.space import read_mobile_space as read

TEXT = """
stem: {channels: 16, stride: 2}
expansions: {min: 0.75, max: 4.5, step: 0.75}
squeeze_excite: [no, yes]
activations: hard_swish
stages:
  - {channels: [8, 16], expansions: 1, squeeze_excite: no}
  - {channels: {min: 16, max: 32, step: 8}, blocks: [1, 3], stride: 2, kernels: 5}
  - {channels: 32, blocks: 2, activations: [relu, hard_swish]}
head: [64, 128]
weight_bits: [2, 4, 8]
"""


@pytest.fixture
def written(tmp_path):
    def write(text: str):
        path = tmp_path / "space.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_what_a_file_says(written):
    rising = (0.75, 1.5, 2.25, 3.0, 3.75, 4.5)
    both = (False, True)
    assert read(written(TEXT)) == MobileSpace(
        stem=Stem(channels=16, stride=2),
        stages=(
            Stage(channels=(8, 16), expansions=(1.0,), squeeze_excite=(False,), activations=("hard_swish",)),
            Stage(
                channels=(16, 24, 32), blocks=(1, 3), stride=2, kernels=(5,), expansions=rising, squeeze_excite=both,
                activations=("hard_swish",),
            ),
            Stage(channels=(32,), blocks=(2, 2), expansions=rising, squeeze_excite=both),
        ),
        head=(64, 128),
        weight_bits=(2, 4, 8),
    )  # fmt: skip


@pytest.mark.parametrize("name", MOBILE_SPACES)
def test_presets_are_their_yaml(name):
    assert parse_mobile_space(yaml.safe_load(dump_mobile_space(MOBILE_SPACES[name])), name) == MOBILE_SPACES[name]


@given(least=st.integers(1, 500), step=st.integers(1, 64), steps=st.integers(0, 20))
def test_a_range_is_pythons_with_its_end(least, step, steps):
    channels = {"min": least, "max": least + steps * step, "step": step}
    values = {"stem": {"channels": 4}, "stages": [{"channels": channels, "expansions": 1}]}
    found = parse_mobile_space(values, "x").stages[0].channels
    assert found == tuple(range(least, least + steps * step + 1, step))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("channels: [8, 16]", "channels: [16, 8]", "stage 1, channels: options must be positive, once each and rising"),
        ("max: 32", "max: 31", "stage 2, channels: max must be min plus a whole number of positive steps"),
        ("step: 8", "step: 0", "stage 2, channels: max must be min plus a whole"),
        ("step: 8}", "by: 8}", "stage 2, channels: a range has min, max and step, all numbers"),
        ("min: 16", "min: few", "stage 2, channels: a range has min, max and step, all numbers"),
        ("channels: 32,", "channels: wide,", "stage 3, channels, 0: Input should be a valid integer"),
        ("channels: 32, ", "", "stage 3, channels: is missing"),
        ("channels: 32, ", "channels: 32, width: 3, ", "stage 3, width: there is no such field; there are chan"),
        ("blocks: 2,", "blocks: [1, 2, 3],", "stage 3, blocks: .*at most 2"),
        ("kernels: 5", "kernels: 6", "stage 2, kernels: must be odd, got 6"),
        ("stride: 2, k", "stride: 3, k", "stage 2, stride: must be one of 1, 2, got 3"),
        ("activations: hard_swish", "activations: gelu", "activations, 0: Input should be 'relu', 'relu6' or"),
        ("stem: {channels: 16, stride: 2}", "", "stem: is missing"),
        ("stem: {channels: 16,", "stem: {channels: 16, kernel: 3,", "stem, kernel: there is no such field; there are"),
        ("head: [64, 128]", "heads: [64, 128]", "heads: there is no such field; there are stem, stages, head"),
        ("weight_bits: [2, 4, 8]", "weight_bits: [2, 9]", r"the bits of the space: weight bits must be 1\.\.8"),
        ("step: 0.75", "step: 0.00001", "expansions: .* are more than anyone searches"),
    ],
)  # fmt: skip
def test_refusals_name_file_stage_and_field(old, new, words, written):
    assert TEXT.count(old) == 1
    path = written(TEXT.replace(old, new))
    with pytest.raises(RecipeError, match=f"^{path}: {words}"):
        read(path)


@pytest.mark.parametrize(("text", "words"), [("- 1", "is not a space: it must be a mapping"), ("a: [", "is not YAML")])
def test_files_that_are_no_spaces(text, words, written):
    with pytest.raises(RecipeError, match=words):
        read(written(text))


def test_a_missing_file(tmp_path):
    with pytest.raises(RecipeError, match=r"can't read the space .*none\.yaml: No such file"):
        read(tmp_path / "none.yaml")
