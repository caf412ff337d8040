"""Widths: how many filters the layers of a network have."""

from bitsmith.search.widths.groups import WidthGroup, WidthGroups, width_groups
from bitsmith.search.widths.method import Binomial, BlockBinomial, WidthSearch
from bitsmith.search.widths.score import relative_loss, score_gradient
from bitsmith.search.widths.slim import SHARES, SlimNetwork

__all__ = [
    "SHARES",
    "Binomial",
    "BlockBinomial",
    "SlimNetwork",
    "WidthGroup",
    "WidthGroups",
    "WidthSearch",
    "relative_loss",
    "score_gradient",
    "width_groups",
]
