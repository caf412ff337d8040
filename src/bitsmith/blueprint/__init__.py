"""Plain values: topology, grids, bits, budgets. Nothing here imports torch."""

from bitsmith.blueprint.bits import FLOAT, Bits, Options, Widths
from bitsmith.blueprint.blueprint import Blueprint, InputContract, read_blueprint
from bitsmith.blueprint.budget import Budget, Power, fronts
from bitsmith.blueprint.coupling import Coupling, couple, groups_removed, keep
from bitsmith.blueprint.graph import (
    ACCUMULATING,
    CLIPS,
    FUNCTIONS,
    JOINING,
    OPERATORS,
    PRICED,
    TRANSPARENT,
    LayerSpec,
    NetworkGraph,
    Node,
    Norm,
)
from bitsmith.blueprint.grids import GridPlan, plan_grids
from bitsmith.blueprint.prune import Pruned, cut, prune
from bitsmith.blueprint.units import UNITS, format_cost, json_name, spoken_cost, unit_of

__all__ = [
    "ACCUMULATING",
    "CLIPS",
    "FLOAT",
    "FUNCTIONS",
    "JOINING",
    "OPERATORS",
    "PRICED",
    "TRANSPARENT",
    "UNITS",
    "Bits",
    "Blueprint",
    "Budget",
    "Coupling",
    "GridPlan",
    "InputContract",
    "LayerSpec",
    "NetworkGraph",
    "Node",
    "Norm",
    "Options",
    "Power",
    "Pruned",
    "Widths",
    "couple",
    "cut",
    "format_cost",
    "fronts",
    "groups_removed",
    "json_name",
    "keep",
    "plan_grids",
    "prune",
    "read_blueprint",
    "spoken_cost",
    "unit_of",
]
