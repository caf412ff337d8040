"""Recipes: what is read, what is refused and with which words."""

import re
from pathlib import Path

import pytest

from bitsmith.blueprint import Budget
from bitsmith.cost import find_target
from bitsmith.errors import RecipeError
from bitsmith.recipe import SpaceSection, dump_recipe, make_method, parse_recipe, read_recipe, suited_space
from bitsmith.search import Composite

LEAST = {"model": {"spec": "resnet8"}, "data": {"source": "digits"}, "budgets": "size=20kB"}
SHIPPED = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(set(SHIPPED.rglob("*.yaml")) - set(SHIPPED.glob("comparisons/*")))  # these are tested by comparisons


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_and_survive_yaml(path, tmp_path):
    recipe = read_recipe(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_recipe(recipe))
    assert read_recipe(copy) == recipe


def test_there_are_shipped_recipes():
    assert {"demo", "digits-composite"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        ("size=20kB", [["size=20kB"]]),
        (["size=20kB", "size=10kB"], [["size=20kB"], ["size=10kB"]]),
        ([["size=20kB", "bitops=1G"]], [["size=20kB", "bitops=1G"]]),
        ("size=10,15,20kB", [["size=10kB"], ["size=15kB"], ["size=20kB"]]),
        (
            [["size=1,2kB", "ram=64kB"], "avg_bits=3"],
            [["size=1kB", "ram=64kB"], ["size=2kB", "ram=64kB"], ["avg_bits=3"]],
        ),
    ],
)
def test_budgets_are_one_line_per_network(budgets, expected):
    assert parse_recipe(LEAST | {"budgets": budgets}, "here").budgets == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budgets": []}, "at least one budget"),
        ({"budgets": [[]]}, "at least one budget"),
        ({"budgets": 5}, "budgets: Input should be a valid list"),
        ({"space": {"activation_bits": 8}}, "space.activation_bits: must be a list, such as [8], got 8"),
        ({"budgets": [["size=1kB", 5]]}, "budgets.0.1: Input should be a valid string"),
        ({"budgets": ["size=1kB", "size=1000B"]}, "size=1kB is given twice"),
        ({"budgets": [["size=1,2kB", "ram=1,2kB"]]}, "both fronts"),
        ({"budgets": "size=20parsec"}, "size in 'size=20parsec' can't be in 'parsec'"),
        ({"budgets": "sice=20kB"}, "unknown cost 'sice' in 'sice=20kB' (did you mean 'size'?); known are"),
        ({"method": {"name": "composit"}}, "method: unknown method 'composit' (did you mean 'composite'?); known are"),
        (
            {"method": {"name": "composite", "epochs": 3}},
            "here.yaml: method 'composite': there is no setting 'epochs'; it takes plan,",
        ),
        (
            {"method": {"name": "composite", "plan": {"lrr": 3}}},
            "here.yaml: method 'composite': plan: there is no setting 'lrr' (did you mean 'lr'?); it takes epochs,",
        ),
        (
            {"method": {"name": "supernet", "refin": {}}},
            "here.yaml: method 'supernet': there is no setting 'refin' (did you mean 'refine'?); it takes",
        ),
        ({"method": {"name": "composite", "plan": 3}}, "method 'composite': plan: must be a mapping of settings"),
        ({"method": {"name": "nowhere.at.all:Thing"}}, "can't be imported"),
        ({"method": {"name": "pathlib:Path"}}, "method"),
        ({"train": {"epoch": 3}}, "here.yaml: train: there is no setting 'epoch' (did you mean 'epochs'?); it takes"),
        ({"target": "toaster"}, "unknown target 'toaster'"),
        ({"fixed": ["w9a8"]}, "fixed.0"),
        ({"colour": 1}, "here.yaml: there is no setting 'colour'; it takes name, model,"),
        ({"model": {"specc": "resnet8"}}, "model: there is no setting 'specc' (did you mean 'spec'?); it takes spec,"),
        ({"target": {"name": "b", "bitz": 3}}, "target: there is no setting 'bitz' (did you mean 'bits'?); it takes"),
        ({"start": "float"}, "needs a trained float network"),
        ({"task": {"metric": "f2"}}, "unknown metric 'f2'; known are accuracy"),
    ],
)
def test_refusals_name_field_and_reason(change, words):
    with pytest.raises(RecipeError, match=re.escape(words)) as caught:
        parse_recipe(LEAST | change, "here.yaml")
    assert str(caught.value).startswith("here.yaml: ")


def test_method_settings_reach_the_method():
    method = make_method({"name": "composite", "plan": {"epochs": 3}, "temperature": [1.0, 0.2]})
    assert isinstance(method, Composite)
    assert (method.epochs, method.temperature, method.plan.lr) == (3, (1.0, 0.2), 0.1)


@pytest.mark.parametrize(
    ("text", "words"),
    [("[1, 2]", "must be a mapping"), ("a: [", "not YAML"), ("!!python/object/apply:os.system ['true']", "not YAML")],
)
def test_files_that_are_no_recipes(tmp_path, text, words):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=words):
        read_recipe(file)
    with pytest.raises(RecipeError, match="can't read the recipe"):
        read_recipe(tmp_path / "missing.yaml")


BOARD = """
extends: mpic
bits: {weights: [2, 4], activations: [4]}
memories: {ram: 60kB}
"""


def test_what_is_not_said_suits_the_target():
    def space(target, **given):
        return parse_recipe(LEAST | {"target": target, "space": given}, "here").space

    assert space("onnx").weight_bits == (2, 3, 4, 8)
    assert space("mpic").weight_bits == (2, 4, 8)
    assert space("mpic", weight_bits=[2, 3]).weight_bits == (2, 3)  # asked for: refused later, never changed
    assert space("ethos-u").activation_bits == (8,)
    assert space("hls4ml").quantizer == "lsq-pow2"
    assert space("hls4ml", quantizer="lsq").quantizer == "lsq"
    suited = suited_space(find_target("onnx"))
    assert suited == SpaceSection().model_dump(include=set(suited))


def test_a_target_file_is_kept_in_the_recipe(tmp_path):
    (tmp_path / "board.yaml").write_text(BOARD)
    recipe = parse_recipe(LEAST | {"target": str(tmp_path / "board.yaml"), "budgets": ["energy=1,2mJ"]}, "here")
    (tmp_path / "board.yaml").unlink()
    assert (recipe.space.weight_bits, recipe.space.activation_bits, recipe.space.ends) == ((2, 4), (4,), None)
    assert [", ".join(map(str, line)) for line in recipe.budget_sets()] == [
        "energy=1mJ, ram=60kB",
        "energy=2mJ, ram=60kB",
    ]
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_recipe(recipe))
    assert read_recipe(copy) == recipe
    assert read_recipe(copy, target="mpic").budget_sets()[0] == (Budget.parse("energy=1mJ"),)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budgets": "energy=1uJ"}, "target 'onnx' can't meet energy=1uJ.*target mpic"),
        ({"budgets": "power=1mW@3fps", "target": "finn"}, "can't meet power=1mW@3fps"),
        ({"target": "mpic", "fixed": ["w3a8"]}, "fixed: target 'mpic' can't hold w3a8"),
        ({"target": {"name": "x", "bits": {"weights": [9]}}}, "target.bits.weights.0: .*less than"),
        ({"target": {"extends": "mpic"}}, "target.name: Field required"),
        ({"target": 5}, "target"),
        ({"target": "nowhere.yaml"}, "can't read the target nowhere.yaml"),
    ],
)
def test_refusals_of_targets(change, words):
    with pytest.raises(RecipeError, match=f"here.yaml: .*{words}"):
        parse_recipe(LEAST | change, "here.yaml")
