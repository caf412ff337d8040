"""The whole job on whole networks: search, train, export, verify, report, explain."""

import pytest

from bitsmith import pipeline
from bitsmith.cost import fits
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.pipeline import RunFolder
from bitsmith.pipeline.explain import explain_run
from bitsmith.recipe import parse_recipe
from bitsmith.report import read_record

RECIPE = {
    "data": {"source": "digits", "limit": 400},
    "space": {
        "kind": "mobile",
        "description": {
            "stem": {"channels": 4},
            "stages": [
                {"channels": [4, 8], "expansions": 1, "kernels": 3, "squeeze_excite": False, "activations": "relu"},
                {"channels": [8], "blocks": [1, 2], "stride": 2, "kernels": 3, "expansions": 1.5},
            ],
            "weight_bits": [2, 8],
            "activation_bits": [4, 8],
        },
    },
    "budgets": [["size=2.4kB", "bitops=1e6"]],
    "method": {
        "name": "supernet",
        "plan": {"epochs": 1, "batch_size": 64, "compile": "none"},
        "score": "probability",
        "norm_batches": 1,
        "loss_batches": 1,
    },
    "train": {"epochs": 1, "batch_size": 64, "lr": 0.05, "compile": "none"},
}


def prepared(path, **changes):
    return pipeline.prepare(RunFolder.create(path, parse_recipe(RECIPE | changes, "the test")))


def test_the_whole_job(tmp_path):
    job = prepared(tmp_path / "run")
    pipeline.check_budgets(job)
    pipeline.search(job)
    pipeline.train(job)
    pipeline.export(job.run)
    assert pipeline.verify(job)
    pipeline.report(job)
    record = read_record(job.run.path / "report.json")
    assert [row.name for row in record.rows] == ["supernet"]
    assert all(record.rows[0].meets.values())
    [(_, blueprint)] = job.run.entries()
    assert job.space.contains(blueprint)
    assert fits(blueprint.graph, blueprint.bits, job.recipe.budget_sets()[0])
    assert explain_run(job)


def test_what_is_refused_beforehand(tmp_path):
    with pytest.raises(BudgetError, match="size is at least"):
        pipeline.check_budgets(prepared(tmp_path / "a", budgets=["size=100B"]))
    job = prepared(tmp_path / "b", space=RECIPE["space"] | {"weight_bits": [3]}, target="mpic")
    with pytest.raises(RecipeError, match="can't hold weight bits"):
        pipeline.check_budgets(job)
