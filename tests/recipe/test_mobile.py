"""Recipes of whole networks: their space in place of a model."""

import pytest

from bitsmith.errors import RecipeError
from bitsmith.recipe import dump_recipe, make_method, parse_recipe, read_recipe
from bitsmith.search import Random, Supernet
from bitsmith.space import MOBILE_SPACES, SEQUENCE_SPACES

SMALL = {
    "stem": {"channels": 4},
    "stages": [{"channels": [4, 8], "kernels": 3, "expansions": [1, 2]}],
    "weight_bits": [2, 4],
}
RECIPE = {
    "data": {"source": "digits"},
    "space": {"kind": "mobile", "preset": "mobile-32"},
    "budgets": ["size=20kB"],
}


def parse(**changes):
    return parse_recipe(RECIPE | changes, "the test")


def test_what_is_left_out(tmp_path):
    recipe = parse()
    assert make_method(recipe.method) == Supernet()
    assert recipe.baselines == []
    assert recipe.start == "search"
    assert recipe.space.networks() == MOBILE_SPACES["mobile-32"]
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    assert read_recipe(file) == recipe


def test_bits_are_those_of_section_space_and_target():
    described = {"kind": "mobile", "description": SMALL}
    assert parse(space=described).space.networks().weight_bits == (2, 4)
    assert parse(space=described | {"weight_bits": [3]}).space.networks().weight_bits == (3,)
    assert parse(target="mpic").space.networks().weight_bits == (2, 4, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"kind": "mobile"}}, "a preset .*mobile-32"),
        ({"space": {"kind": "mobile", "preset": "mobile-32", "description": SMALL}}, "or a description"),
        ({"space": {"kind": "mobile", "preset": "mobile-1"}}, "there is no 'mobile-1'"),
        ({"space": {"kind": "mobile", "description": {"stem": {"channels": 4}}}}, "stages: is missing"),
        ({"space": {"kind": "mobile", "preset": "mobile-32", "pins": {"stem": 8}}}, "no pins"),
        ({"model": {"spec": "resnet8"}}, "has no model"),
        ({"float_plan": {"epochs": 1}}, "no float_plan"),
        ({"baselines": ["sensitivity"]}, "sensitivity measures one trained float network, and a mobile space holds"),
        ({"fixed": ["w8a8"]}, "fixed gives a network of yours other bits"),
        ({"start": "float"}, "start from the search or from scratch"),
        ({"space": {"preset": "mobile-32"}, "model": {"spec": "resnet8"}}, "belong to kind: mobile"),
    ],
)
def test_what_does_not_go_together(changes, message):
    with pytest.raises(RecipeError, match=message):
        parse(**changes)


def test_a_sequence_space_is_named_alike(tmp_path):
    own = {"kind": "sequence", "description": {"stem": {"channels": 4}, "channels": [4, 8], "weight_bits": [2, 4]}}
    recipe = parse(space={"kind": "sequence", "preset": "sequence-28"})
    assert make_method(recipe.method) == Random()
    assert recipe.model.spec == "sequence"
    assert recipe.start == "scratch"
    assert recipe.space.networks() == SEQUENCE_SPACES["sequence-28"]
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    assert read_recipe(file) == recipe
    assert parse(space=own).space.networks().weight_bits == (2, 4)
    for space, message in (
        ({"kind": "sequence"}, "a sequence space has a preset .*sequence-32"),
        ({"kind": "sequence", "preset": "mobile-32"}, "there is no 'mobile-32'"),
        ({"kind": "sequence", "preset": "sequence-28", "pins": {"stem": 8}}, "a sequence space has no pins"),
    ):
        with pytest.raises(RecipeError, match=message):
            parse(space=space)
    with pytest.raises(RecipeError, match="a sequence space has no model"):
        parse(space=own, model={"spec": "resnet8"})
