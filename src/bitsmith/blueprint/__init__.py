"""Plain values: topology, grids, bits, budgets. Nothing here imports torch."""

from bitsmith.blueprint.blueprint import FLOAT, Bits, Blueprint, InputContract, Options
from bitsmith.blueprint.budget import UNITS, Budget, format_cost, fronts
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
    "GridPlan",
    "InputContract",
    "LayerSpec",
    "NetworkGraph",
    "Node",
    "Norm",
    "Options",
    "format_cost",
    "fronts",
    "plan_grids",
]
