"""Settings that no search by gradients can work with are refused before anything runs."""

import pytest

from bitsmith.errors import RecipeError
from bitsmith.recipe.methods import make_method
from bitsmith.search import Composite, Filters, Supernet

WRONG = {
    "architecture_lr": (-1.0, 0.0, float("nan")),
    "multiplier_step": (-0.1, float("inf")),
    "square": (-1.0,),
    "falling": (0.0, 1.5),
    "temperature": ((0.0, 1.0), (1.0, float("inf"))),
    "norm_batches": (0,),
}


@pytest.mark.parametrize("method", [Composite, Filters, Supernet])
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_refused_by_name(method, name, value):
    with pytest.raises(RecipeError, match=f"{name} of method '{method().name}' must be"):
        method(**{name: value})


@pytest.mark.parametrize("values", [{"weights_first": -1}, {"loss_batches": 0}, {"cd": float("nan")}])
def test_composites_own(values):
    with pytest.raises(RecipeError):
        Composite(**values)


def test_a_recipe_is_refused_when_it_is_read():
    with pytest.raises(RecipeError, match="architecture_lr of method 'filters' must be positive, got -1"):
        make_method({"name": "filters", "architecture_lr": -1})
