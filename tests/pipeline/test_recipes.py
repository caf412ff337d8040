"""Every recipe that ships is one; what it searches is tried elsewhere."""

from pathlib import Path

import pytest

from bitsmith.pipeline.comparison import read_comparison
from bitsmith.recipe import read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted(RECIPES.rglob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(RECIPES)))
def test_it_can_be_read(file):
    comparison = read_comparison(file)
    if file.parent.name != "comparisons":
        recipe = read_recipe(file)
        assert recipe.method["name"] in {entrant.settings["name"] for entrant in comparison.methods}
    assert file.read_text().startswith("# ")  # what it is for
