"""Methods that propose blueprints inside hard budgets."""

from bitsmith.search.allocate import allocate, reachable
from bitsmith.search.baselines import fill, largest_uniform, least, random_inside
from bitsmith.search.composite import Composite, complexity, published_penalty
from bitsmith.search.mixed import build_mixed, decisions, inherit, most_likely, probabilities
from bitsmith.search.problem import Found, Method, Problem
from bitsmith.search.sensitivity import measure, to_penalties
from bitsmith.search.uniform import Random, Uniform

__all__ = [
    "Composite",
    "Found",
    "Method",
    "Problem",
    "Random",
    "Uniform",
    "allocate",
    "build_mixed",
    "complexity",
    "decisions",
    "fill",
    "inherit",
    "largest_uniform",
    "least",
    "measure",
    "most_likely",
    "probabilities",
    "published_penalty",
    "random_inside",
    "reachable",
    "to_penalties",
]
