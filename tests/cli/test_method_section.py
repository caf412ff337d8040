"""What --method, --as-published and --epochs mean in a recipe."""

import pytest

from bitsmith.cli.jobs import method_section
from bitsmith.errors import RecipeError
from bitsmith.recipe import METHODS, make_method


def test_as_published():
    supernet = make_method(method_section("supernet", True, None))
    assert (supernet.name, supernet.epochs) == ("supernet-as-published", 90)
    assert round(supernet.weights_first * 90) == 10
    assert make_method(method_section("composite", True, 3)).epochs == 3
    assert make_method(method_section("supernet", False, 7)).epochs == 7
    with pytest.raises(RecipeError, match=r"--as-published belongs to --method composite, supernet, .*, not to"):
        method_section("uniform", True, None)
    with pytest.raises(RecipeError, match="epochs of a training must be at least 1"):
        make_method(method_section("composite", True, 0))


@pytest.mark.parametrize("name", METHODS)
def test_epochs_are_those_of_every_method_that_trains(name):
    if hasattr(make_method({"name": name}), "plan"):
        assert make_method(method_section(name, False, 3)).plan.epochs == 3
    else:
        with pytest.raises(RecipeError, match=f"--epochs belongs to .*composite, filters, .*; '{name}'"):
            method_section(name, False, 3)


def test_a_name_of_tables_is_a_method():
    assert make_method(method_section("uniform+fill", False, None)).name == "uniform+fill"


def test_what_nobody_knows_of_the_published_multinomial_search():
    with pytest.raises(RecipeError, match="the bops_weight and the architecture_lr"):
        make_method(method_section("multinomial", True, None))
