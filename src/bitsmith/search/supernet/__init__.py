"""The supernet: every network of a mobile space around one set of shared convolutions, searched by gradients."""

from bitsmith.search.supernet.discretize import Discretizer
from bitsmith.search.supernet.evolution import Refined, refine
from bitsmith.search.supernet.method import Supernet
from bitsmith.search.supernet.network import SharedNetwork
from bitsmith.search.supernet.pricing import expected_costs, price_factors
from bitsmith.search.supernet.scoring import Scoring, inherited, score_inherited
from bitsmith.search.supernet.slices import slices

__all__ = [
    "Discretizer",
    "Refined",
    "Scoring",
    "SharedNetwork",
    "Supernet",
    "expected_costs",
    "inherited",
    "price_factors",
    "refine",
    "score_inherited",
    "slices",
]
