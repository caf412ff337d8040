"""Filters: which filters stay, and how many bits each of them has."""

from bitsmith.search.filters.costs import RELAXED, RelaxedCosts
from bitsmith.search.filters.method import Filters
from bitsmith.search.filters.multinomial import Multinomial
from bitsmith.search.filters.partitions import Partitions
from bitsmith.search.filters.sampled import SampledFilters
from bitsmith.search.filters.soft import SoftFilters

__all__ = ["RELAXED", "Filters", "Multinomial", "Partitions", "RelaxedCosts", "SampledFilters", "SoftFilters"]
