"""Searches of filters and widths as jobs: estimated, searched, trained, written, verified, reported."""

from dataclasses import replace

import pytest

from bitsmith import pipeline
from bitsmith.cost import TARGETS, fits
from bitsmith.cost.latency import LatencyTable, Setting, Timing
from bitsmith.errors import RecipeError
from bitsmith.pipeline import RunFolder
from bitsmith.pipeline.estimate import estimate
from bitsmith.recipe import parse_recipe
from bitsmith.report import read_record

PLAN = {"epochs": 2, "batch_size": 64, "lr": 0.05}
RECIPE = {
    "name": "filters",
    "model": {"spec": "resnet8_slim"},
    "data": {"source": "digits", "limit": 400},
    "baselines": [],
    "train": {"epochs": 1, "batch_size": 64, "lr": 0.05},
}
DRAWN = {
    "space": {"weight_bits": [2, 3, 8], "activation_bits": [2, 3, 4, 8]},
    "budgets": ["bops=3.66M"],
    "method": {"name": "multinomial", "plan": PLAN, "architecture_steps": 2, "norm_batches": 1},
}
PRUNED = {
    "space": {"weight_bits": [2, 4, 8], "activation_bits": [8]},
    "budgets": ["weights=4kB"],
    "method": {"name": "filters", "plan": PLAN, "norm_batches": 1, "architecture_lr": 0.3},
}
NARROW = {
    "space": {"weight_bits": [2, 4], "activation_bits": [8]},
    "budgets": ["weights=6kB"],
    "method": {"name": "binomial", "weight_bits": 4, "plan": PLAN, "samples": 2, "sample_steps": 1, "norm_batches": 1},
}
BLOCKS = NARROW | {"method": NARROW["method"] | {"name": "block-binomial"}}


@pytest.fixture(params=[DRAWN, PRUNED, NARROW, BLOCKS], ids=lambda recipe: recipe["method"]["name"])
def job(request, tmp_path):
    return pipeline.prepare(RunFolder.create(tmp_path / "run", parse_recipe(RECIPE | request.param, "the test")))


def test_a_latency_table_is_refused_before_anything_is_trained(job):
    """It has no time for what these searches find, budgeted or not."""
    setting = Setting(cpu="c", system="s", runtime="onnxruntime 1", threads=1, input="float")
    table = LatencyTable(setting=setting, call=Timing(nanoseconds=1, spread=0, measured=1), entries={})
    measured = replace(TARGETS["onnx"], name="m", float_layers=False, latency=table)
    with pytest.raises(RecipeError, match="'m' has a measured latency table, and layers"):
        pipeline.check_budgets(replace(job, target=measured))


def test_the_whole_job(job):
    pipeline.check_budgets(job)
    told = estimate(job)
    assert told.networks == 1
    assert told.search_seconds > 0 == told.float_seconds
    pipeline.search(job)
    pipeline.train(job)
    pipeline.export(job.run)
    assert pipeline.verify(job)
    pipeline.report(job)
    ((entry, blueprint),) = job.run.entries()
    assert fits(blueprint.graph, blueprint.bits, job.recipe.budget_sets()[0])
    name = entry.name
    assert name == job.recipe.method["name"]
    assert [row.name for row in read_record(job.run.path).rows] == [name]
    before = sum(layer.out_channels for layer in job.graph.layers)
    assert (sum(layer.out_channels for layer in blueprint.graph.layers) < before) == (name != "multinomial")
    bits = blueprint.bits.values()
    assert any(isinstance(of.weight, tuple) for of in bits) == (name in ("multinomial", "filters"))
    assert any(isinstance(of.activation, tuple) for of in bits) == (name == "multinomial")
    if name == "multinomial":
        assert entry.details["fell_back"] is False
