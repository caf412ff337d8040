"""Explaining the networks of a run on digits: costs against exact prices, files, resuming, the report."""

import dataclasses
import json
import shutil
import sys
from statistics import NormalDist

import pytest

import bitsmith as bs
from bitsmith import pipeline
from bitsmith.blueprint import Bits
from bitsmith.cost.additive import fractional
from bitsmith.errors import BudgetError, RunError
from bitsmith.pipeline import RunFolder
from bitsmith.pipeline.exported import load
from bitsmith.recipe import parse_recipe
from bitsmith.report import read_explained, read_record

RECIPE = {
    "name": "explained",
    "model": {"spec": "resnet8_slim"},
    "data": {"source": "digits", "limit": 500},
    "space": {"weight_bits": [1, 2, 4, 8], "activation_bits": [4, 8], "pins": {"layer2.*": "w4a8", "layer3.*": "w2a8"}},
    "budgets": [["size=7.9kB", "bitops=30M"]],
    "method": {"name": "sensitivity", "norm_batches": 2, "loss_batches": 1},
    "baselines": ["uniform"],
    "fixed": ["w8a8"],
    "float_plan": {"epochs": 2, "batch_size": 64, "lr": 0.1},
    "train": {"epochs": 1, "batch_size": 64, "lr": 0.05},
}
FOUND = "sensitivity-size_7.9kB-bitops_30M"


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A trained run."""
    job = pipeline.prepare(RunFolder.create(tmp_path_factory.mktemp("run") / "a", parse_recipe(RECIPE, "the test")))
    pipeline.train_float(job)
    pipeline.search(job)
    pipeline.train(job)
    return job


@pytest.fixture(scope="module")
def explained(job):
    return pipeline.explain_run(job)[FOUND]


def test_costs_are_exact_differences(job, explained):
    _, blueprint = job.run.read_entry(job.run.path / FOUND)
    before = bs.price(blueprint.graph, blueprint.bits, job.space.costs)
    assert explained.steps
    for step in explained.steps:
        bits = blueprint.bits[step.layer]
        assert step.before == getattr(bits, step.kind)
        changed = Bits(**({"weight": bits.weight, "activation": bits.activation} | {step.kind: step.after}))
        after = bs.price(blueprint.graph, {**blueprint.bits, step.layer: changed}, job.space.costs)
        assert step.costs == {cost: after[cost] - before[cost] for cost in ("size", "bitops")}
        assert step.inside == (after["size"] <= 7900 and after["bitops"] <= 30e6)
    assert {step.inside for step in explained.steps} == {True, False}


def test_steps_are_those_of_free_layers(job, explained):
    free = {name for name, options in job.space.options.items() if len(options.weight) > 1}
    assert free == {"layer1.0.conv1", "layer1.0.conv2"}
    assert {step.layer for step in explained.steps} == free
    for step in explained.steps:
        options = getattr(job.space.options[step.layer], step.kind)
        assert abs(options.index(step.after) - options.index(step.before)) == 1


def test_requested_and_obtained(job, explained):
    _, blueprint = job.run.read_entry(job.run.path / FOUND)
    costs = bs.price(blueprint.graph, blueprint.bits, job.space.costs)
    assert [(line.cost, line.limit, line.obtained, line.met) for line in explained.requested] == [
        ("size", 7900.0, costs["size"], True),
        ("bitops", 30e6, costs["bitops"], True),
    ]
    assert explained.price == "size"


def test_a_bit_is_weighed_by_a_cost_that_rises_with_bits(job):
    """Latency, the first budget, only rises where activations get fewer bits; so weights are what a bit costs."""
    latency = fractional("latency", 1e9, lambda graph, plan, layer, bits: 8 - bits.activation, lambda graph, plan: 0)
    space = dataclasses.replace(job.space, costs={**job.space.costs, "latency": latency})
    network = load(job.run.path / FOUND)
    found = bs.explain(job.task, network, space, ["latency=1s", "weights=20kB"])
    assert any(step.costs["latency"] for step in found.steps)
    assert found.price == "weights"


def test_what_the_search_believed_is_told(job, explained):
    entry, _ = job.run.read_entry(job.run.path / FOUND)
    losses = entry.details["sensitivities"]
    for step in explained.steps:
        options = getattr(job.space.options[step.layer], step.kind)
        by_bits = dict(zip(options, losses[step.layer][step.kind], strict=True))
        assert step.believed == by_bits[step.after] - by_bits[step.before]
    uniform = pipeline.explain_run(job, ["uniform"])
    assert {step.believed for it in uniform.values() for step in it.steps} == {None}


def test_noise_is_marked_for_all_steps_together(job, explained):
    n = len(explained.steps)
    kept = json.loads((job.run.path / FOUND / "explain.measured.json").read_text())["values"]
    for step in explained.steps:
        for name, effect in (("score", step.score), ("loss", step.loss)):
            measured = kept[f"{step.layer} {step.kind} {step.after}"][name]
            assert effect.value == measured["value"]
            tail = 1 - NormalDist().cdf(effect.margin / measured["error"]) if measured["error"] else 0.025 / n
            assert tail == pytest.approx(0.025 / n)
            assert effect.noise == (abs(effect.value) <= effect.margin)
    assert explained.images == len(job.task.data.validation)


def test_files_and_a_second_time(job, explained, monkeypatch):
    folder = job.run.path / FOUND
    assert read_explained(folder / "explain.json") == explained
    monkeypatch.setattr(sys.modules["bitsmith.search.marginal"], "take_step", None)
    before = (folder / "explain.measured.json").stat().st_mtime_ns
    assert pipeline.explain_run(job, [FOUND]) == {FOUND: explained}
    assert (folder / "explain.measured.json").stat().st_mtime_ns == before


def test_the_python_face_says_the_same(job, explained):
    net = load(job.run.path / FOUND)
    found = bs.explain(job.task, net, job.space, ["size=7.9kB", "bitops=30M"], seed=job.recipe.seed, name=FOUND)
    unbelieved = [dataclasses.replace(step, believed=None) for step in explained.steps]
    assert found == dataclasses.replace(explained, steps=unbelieved)
    measured = job.run.path / FOUND / "explain.measured.json"
    without = bs.explain(job.task, net, job.space, seed=job.recipe.seed, file=measured)
    assert without.requested == []
    assert {step.inside for step in without.steps} == {None}
    assert "budgets" not in " ".join(without.words)
    with pytest.raises(BudgetError):
        bs.explain(job.task, net, job.space, ["size=9parsecs"])


def test_a_network_of_fixed_bits_outside_the_pins(job):
    found = pipeline.explain_run(job, ["w8a8"])["w8a8"]
    assert found.requested == []
    assert all(step.before == 8 for step in found.steps if step.kind == "weight")


def test_the_report_shows_it(job, explained):
    pipeline.export(job.run)
    assert pipeline.verify(job)
    page = pipeline.report(job).read_text(encoding="utf-8")
    assert read_record(job.run.path).explained[FOUND] == explained
    assert "What each layer gains and costs" in page
    assert "BatchNorm&#39;s" in page or "BatchNorm's" in page


def test_unknown_and_untrained_networks(job, tmp_path):
    with pytest.raises(
        RunError, match=f"no network of this run is called nobody; it has sensitivity, {FOUND}, uniform"
    ):
        pipeline.explain_run(job, ["nobody"])
    copy = tmp_path / "copy"
    shutil.copytree(job.run.path, copy)
    (copy / FOUND / "training.json").unlink()
    with pytest.raises(RunError, match="not trained yet; run bitsmith train"):
        pipeline.explain_run(dataclasses.replace(job, run=RunFolder(path=copy)))


def test_other_weights_take_the_explanation_away(job, explained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(job.run.path, copy)
    (copy / FOUND / "training.json").unlink()
    again = dataclasses.replace(job, run=RunFolder(path=copy))
    pipeline.train(again, only=["sensitivity"])
    assert not (copy / FOUND / "explain.json").exists()
    assert pipeline.explain_run(again)[FOUND] == explained  # the same training, the same measurement
