"""Filters: which filters stay, and how many bits each of them has."""

from bitsmith.search.filters.costs import RELAXED, RelaxedCosts
from bitsmith.search.filters.method import Filters
from bitsmith.search.filters.soft import SoftFilters

__all__ = ["RELAXED", "Filters", "RelaxedCosts", "SoftFilters"]
