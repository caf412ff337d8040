"""A narrowed network goes through the whole job like any other."""

import json

import pytest
import torch

from bitsmith import pipeline
from bitsmith.blueprint import Blueprint
from bitsmith.errors import RecipeError
from bitsmith.models import load_model
from bitsmith.pipeline import RunFolder
from bitsmith.quantize import build, float_blueprint
from bitsmith.recipe import parse_recipe
from bitsmith.report import read_record
from bitsmith.space import narrowed
from bitsmith.train import load_state

RECIPE = {
    "model": {"spec": "resnet8", "width": 0.3},
    "data": {"source": "digits", "limit": 400},
    "space": {"weight_bits": [2, 8]},
    "budgets": ["size=4kB"],
    "method": {"name": "uniform"},
    "baselines": [],
    "float_plan": {"epochs": 1, "batch_size": 64},
    "train": {"epochs": 1, "batch_size": 64},
}


def recipe(**changes):
    return parse_recipe(RECIPE | changes, "the test")


def test_from_the_recipe_to_the_verified_file(tmp_path):
    run, said = RunFolder.create(tmp_path, recipe()), []
    job = pipeline.prepare(run, said.append)
    note = "narrowed to 0.3: 16 -> 5, 32 -> 10, 64 -> 19 channels, 77,072 -> 7,234 weights, newly initialized"
    assert said[0] == note
    pipeline.train_float(job)
    pipeline.search(job)
    pipeline.train(job)
    pipeline.export(run)
    assert pipeline.verify(job)
    pipeline.report(job)
    assert note in read_record(run.path).notes
    blueprint = Blueprint.from_json((tmp_path / "uniform-size_4kB" / "blueprint.json").read_text())
    assert [layer.out_channels for layer in blueprint.graph.layers] == [5, 5, 5, 10, 10, 10, 19, 19, 19, 10]
    # Going on, it is read from the folder, not narrowed once more.
    assert pipeline.prepare(run).graph == job.graph


def test_new_weights_are_those_of_a_network_of_that_shape(tmp_path):
    """Drawn for layers that read fewer channels, from the seed alone."""
    first, again = (pipeline.prepare(RunFolder.create(tmp_path / name, recipe())) for name in "ab")
    other = pipeline.prepare(RunFolder.create(tmp_path / "c", recipe(seed=1)))
    assert all(torch.equal(value, again.state[key]) for key, value in first.state.items())
    assert not torch.equal(first.state["conv1.weight"], other.state["conv1.weight"])
    build(float_blueprint(first.graph)).load_state_dict(first.state)
    deep = first.state["layer3.0.conv2.weight"]  # Kaiming: variance 2 / (19 filters * 9)
    assert float(deep.std()) == pytest.approx((2 / (19 * 9)) ** 0.5, rel=0.1)


def test_given_weights_lose_channels(tmp_path):
    torch.manual_seed(0)
    module, _ = load_model("resnet8", classes=10, shape=(1, 8, 8))
    torch.save(module.state_dict(), tmp_path / "given.pt")
    model = {"spec": "resnet8", "width": 0.5, "weights": tmp_path / "given.pt"}
    job = pipeline.prepare(RunFolder.create(tmp_path / "run", recipe(model=model)))
    assert job.notes[0].endswith("19,464 weights; their given values, to be trained further")
    whole = pipeline.prepare(RunFolder.create(tmp_path / "whole", recipe(model=model | {"width": 1})))
    assert torch.equal(job.state["layer1.0.conv1.weight"], module.state_dict()["layer1.0.conv1.weight"][:8, :8])
    found = narrowed(whole.graph, 0.5).state(whole.state)
    assert all(torch.equal(value, found[key]) for key, value in job.state.items())


def test_given_weights_are_not_trained_any_more(tmp_path):
    model = {"spec": "resnet8", "width": 0.5, "weights": tmp_path / "given.pt"}
    reason = "at another width the given weights are not trained"
    with pytest.raises(RecipeError, match=reason):
        recipe(model=model, method={"name": "sensitivity"}, float_plan=None)
    with pytest.raises(RecipeError, match=reason):
        recipe(model=model, train={"epochs": 1, "distill": 0.5}, float_plan=None)
    recipe(model=model, method={"name": "sensitivity"})  # trains the narrowed network first
    recipe(model=model | {"width": 1}, method={"name": "sensitivity"}, float_plan=None)


@pytest.mark.parametrize("width", [0, -1, 1.5, "wide"])
def test_widths_that_are_none(width):
    with pytest.raises(RecipeError, match=r"model\.width"):
        recipe(model={"spec": "resnet8", "width": width})


def test_another_width_is_another_run(tmp_path):
    RunFolder.create(tmp_path, recipe())
    wider = RunFolder.create(tmp_path, recipe(model={"spec": "resnet8", "width": 0.5}))  # nothing was learned yet
    assert pipeline.prepare(wider).graph["conv1"].shape[0] == 8
    graph = json.loads((tmp_path / "graph.json").read_text())
    assert graph["notes"][0].startswith("narrowed to 0.5: 16 -> 8")
    assert load_state(tmp_path / "captured.safetensors")["conv1.weight"].shape == (8, 1, 3, 3)
