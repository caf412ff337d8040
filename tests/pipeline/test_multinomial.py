"""A multinomial search as a job: estimated, searched, trained, written, verified, reported."""

from bitsmith import pipeline
from bitsmith.cost import fits
from bitsmith.pipeline import RunFolder
from bitsmith.pipeline.estimate import estimate
from bitsmith.recipe import parse_recipe
from bitsmith.report import read_record

RECIPE = {
    "name": "drawn",
    "model": {"spec": "resnet8_slim"},
    "data": {"source": "digits", "limit": 400},
    "space": {"weight_bits": [2, 3, 8], "activation_bits": [2, 3, 4, 8]},
    "budgets": ["bops=3.66M"],
    "method": {
        "name": "multinomial",
        "plan": {"epochs": 2, "batch_size": 64, "lr": 0.05},
        "architecture_steps": 2,
        "norm_batches": 1,
    },
    "baselines": [],
    "train": {"epochs": 1, "batch_size": 64, "lr": 0.05},
}


def test_the_whole_job(tmp_path):
    job = pipeline.prepare(RunFolder.create(tmp_path / "run", parse_recipe(RECIPE, "the test")))
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
    assert entry.name == "multinomial"
    assert entry.details["fell_back"] is False
    assert any(isinstance(bits.weight, tuple) for bits in blueprint.bits.values())
    assert any(isinstance(bits.activation, tuple) for bits in blueprint.bits.values())
    assert [row.name for row in read_record(job.run.path).rows] == ["multinomial"]
