"""What noise can't do is refused before anything is searched or trained."""

import pytest

from bitsmith import pipeline
from bitsmith.errors import RecipeError
from bitsmith.pipeline import RunFolder
from bitsmith.recipe import parse_recipe

RECIPE = {
    "model": {"spec": "resnet8_slim"},
    "data": {"source": "digits", "limit": 300},
    "budgets": ["weights=20kB"],
    "train": {"epochs": 4, "batch_size": 64, "noise": 0.05},
}
PUBLISHED = {"method": {"name": "composite", "as_published": True}, "start": "scratch"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"space": {"quantizer": "pact"}}, "those of the quantizer 'pact' are not"),
        (PUBLISHED, "those of the quantizer 'hwgq' are not"),
        ({"train": {"epochs": 1, "batch_size": 64, "noise": 0.05}}, "noise takes 11 stages.* has 5 steps"),
        ({}, ""),
    ],
)
def test_what_noise_cannot_do(tmp_path, changes, reason):
    job = pipeline.prepare(RunFolder.create(tmp_path / "run", parse_recipe(RECIPE | changes, "the test")))
    if not reason:
        pipeline.check_budgets(job)
        return
    with pytest.raises(RecipeError, match=reason):
        pipeline.check_budgets(job)
