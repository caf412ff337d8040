"""Recipes of whole networks: their space in place of a model."""

import pytest

from bitsmith.errors import RecipeError
from bitsmith.recipe import dump_recipe, make_method, parse_recipe, read_recipe
from bitsmith.search import Supernet
from bitsmith.space import MOBILE_SPACES

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
    assert recipe.space.mobile() == MOBILE_SPACES["mobile-32"]
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    assert read_recipe(file) == recipe


def test_bits_are_those_of_section_space_and_target():
    described = {"kind": "mobile", "description": SMALL}
    assert parse(space=described).space.mobile().weight_bits == (2, 4)
    assert parse(space=described | {"weight_bits": [3]}).space.mobile().weight_bits == (3,)
    assert parse(target="mpic").space.mobile().weight_bits == (2, 4, 8)


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
