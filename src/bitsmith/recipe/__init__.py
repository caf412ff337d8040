"""What a run is: pydantic models <-> YAML."""

from bitsmith.recipe.methods import FILLED, METHODS, make_method, named
from bitsmith.recipe.reading import dump_recipe, parse_recipe, read_recipe
from bitsmith.recipe.recipe import NETWORKS, Recipe, absolute
from bitsmith.recipe.sections import DataSection, ModelSection, SpaceSection, TaskSection, suited_space

__all__ = [
    "FILLED",
    "METHODS",
    "NETWORKS",
    "DataSection",
    "ModelSection",
    "Recipe",
    "SpaceSection",
    "TaskSection",
    "absolute",
    "dump_recipe",
    "make_method",
    "named",
    "parse_recipe",
    "read_recipe",
    "suited_space",
]
