"""What --method, --as-published and --epochs mean in a recipe."""

import pytest

from bitsmith.cli.jobs import method_section
from bitsmith.errors import RecipeError
from bitsmith.recipe import make_method


def test_as_published():
    supernet = make_method(method_section("supernet", True, None))
    assert (supernet.name, supernet.epochs) == ("supernet-as-published", 90)
    assert round(supernet.weights_first * 90) == 10
    assert make_method(method_section("composite", True, 3)).epochs == 3
    assert make_method(method_section("supernet", False, 7)).epochs == 7
    with pytest.raises(RecipeError, match="belongs to --method composite and supernet"):
        method_section("uniform", True, None)
