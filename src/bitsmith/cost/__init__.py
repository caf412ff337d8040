"""Graph and bits in, numbers out: parameters, bytes, RAM, operations; exact, tabulated or expected."""

from bitsmith.cost.additive import COSTS, Cost, exact, find_cost, fits, fractional, price
from bitsmith.cost.described import TargetDescription
from bitsmith.cost.energy import ENERGY_MODELS, Cycles, PerMac
from bitsmith.cost.memory import ArenaPlan, plan_arena
from bitsmith.cost.reading import find_target, is_file, read_description
from bitsmith.cost.streams import costs_at_streams
from bitsmith.cost.tables import CostTables, ExpectedCost, table, tabulate
from bitsmith.cost.target import Target
from bitsmith.cost.targets import TARGETS, check_budgets

__all__ = [
    "COSTS",
    "ENERGY_MODELS",
    "TARGETS",
    "ArenaPlan",
    "Cost",
    "CostTables",
    "Cycles",
    "ExpectedCost",
    "PerMac",
    "Target",
    "TargetDescription",
    "check_budgets",
    "costs_at_streams",
    "exact",
    "find_cost",
    "find_target",
    "fits",
    "fractional",
    "is_file",
    "plan_arena",
    "price",
    "read_description",
    "table",
    "tabulate",
]
