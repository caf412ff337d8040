"""Graph and bits in, numbers out: parameters, bytes, RAM, operations; exact, tabulated or expected."""

from bitsmith.cost.additive import COSTS, Cost, exact, fits, price
from bitsmith.cost.memory import ArenaPlan, plan_arena
from bitsmith.cost.tables import CostTables, ExpectedCost, table, tabulate
from bitsmith.cost.target import TARGETS, Target

__all__ = [
    "COSTS",
    "TARGETS",
    "ArenaPlan",
    "Cost",
    "CostTables",
    "ExpectedCost",
    "Target",
    "exact",
    "fits",
    "plan_arena",
    "price",
    "table",
    "tabulate",
]
