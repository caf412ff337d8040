"""Methods that propose blueprints inside hard budgets."""

from bitsmith.search.allocate import allocate
from bitsmith.search.baselines import fill, largest_uniform, random_inside
from bitsmith.search.composite import Composite, complexity, published_penalty
from bitsmith.search.evaluate import Score, evaluate_blueprint
from bitsmith.search.feasible import least, reachable, some_inside
from bitsmith.search.filters import Filters, Multinomial, Partitions, SampledFilters, SoftFilters
from bitsmith.search.grid import GridSearch, blueprints_inside
from bitsmith.search.integer_program import Sensitivity
from bitsmith.search.latent.method import Latent
from bitsmith.search.marginal import Marginal, Marginals, measure_steps
from bitsmith.search.mixed import build_mixed, decisions, inherit, most_likely, probabilities
from bitsmith.search.mobile_random import random_network
from bitsmith.search.problem import Elsewhere, Found, Method, Problem
from bitsmith.search.sensitivity import Measured, measure, to_penalties
from bitsmith.search.sequence_inside import extreme_sequence, random_sequence, some_sequence
from bitsmith.search.step import Step, single_steps
from bitsmith.search.supernet import (
    Discretizer,
    Scoring,
    SharedNetwork,
    Supernet,
    inherited,
    score_inherited,
    slices,
)
from bitsmith.search.uniform import Random, Uniform, drawn_name, no_uniform
from bitsmith.search.widths import Binomial, BlockBinomial, SlimNetwork, WidthSearch

__all__ = [
    "Binomial",
    "BlockBinomial",
    "Composite",
    "Discretizer",
    "Elsewhere",
    "Filters",
    "Found",
    "GridSearch",
    "Latent",
    "Marginal",
    "Marginals",
    "Measured",
    "Method",
    "Multinomial",
    "Partitions",
    "Problem",
    "Random",
    "SampledFilters",
    "Score",
    "Scoring",
    "Sensitivity",
    "SharedNetwork",
    "SlimNetwork",
    "SoftFilters",
    "Step",
    "Supernet",
    "Uniform",
    "WidthSearch",
    "allocate",
    "blueprints_inside",
    "build_mixed",
    "complexity",
    "decisions",
    "drawn_name",
    "evaluate_blueprint",
    "extreme_sequence",
    "fill",
    "inherit",
    "inherited",
    "largest_uniform",
    "least",
    "measure",
    "measure_steps",
    "most_likely",
    "no_uniform",
    "probabilities",
    "published_penalty",
    "random_inside",
    "random_network",
    "random_sequence",
    "reachable",
    "score_inherited",
    "single_steps",
    "slices",
    "some_inside",
    "some_sequence",
    "to_penalties",
]
