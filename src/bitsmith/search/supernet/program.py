"""The integer program over paths that `discretize` describes: its variables, equations and rows."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from scipy.optimize import LinearConstraint
from scipy.sparse import csr_array

from bitsmith.search.allocate import OBJECTIVE_EXPONENT, at_most, solve_program
from bitsmith.search.supernet.factors import Factor
from bitsmith.search.supernet.forms import unit_forms
from bitsmith.search.supernet.peaks import SHAPELESS, SHAPING, Peaks
from bitsmith.space import Mobile
from bitsmith.space.decisions import Decisions


@final
@dataclass(frozen=True, kw_only=True)
class BudgetRow:
    """One budget as fixed + sum of factors <= limit."""

    fixed: float
    factors: Mapping[tuple[str, ...], Factor]
    limit: float

    def total(self, decisions: Decisions, indices: np.ndarray) -> float:
        """The left side at option indices [decisions]."""
        return self.fixed + sum(factor.at(decisions, indices) for factor in self.factors.values())

    def times(self, sign: float) -> BudgetRow:
        """The row times 1 or -1, without a limit that means anything."""
        factors = {name: replace(f, entries=sign * f.entries) for name, f in self.factors.items()}
        return BudgetRow(fixed=sign * self.fixed, factors=factors, limit=math.inf)


@final
@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """At most `limit` bytes live at any step."""

    peaks: Peaks
    limit: float


@final
class Program:
    """Variables, equations and rows; solved by HiGHS.

    Args:
        penalties: decision -> one number per option.
        rows: at least one; limits on sums over blocks.
        ceiling: on what lives at once.
        apart: keep forms of other tensors beside each other, whatever they cost.
    """

    def __init__(
        self,
        space: Mobile,
        penalties: Mapping[str, np.ndarray],
        rows: Sequence[BudgetRow],
        ceiling: Ceiling | None = None,
        *,
        apart: bool = False,
    ) -> None:
        self._space, self.apart, self._ceiling = space, apart, ceiling
        self._peaks = {_unit(f): f for f in ceiling.peaks.factors} if ceiling is not None else {}
        self._penalties = {name: np.asarray(values, dtype=np.float64) for name, values in penalties.items()}
        self._limits = np.array([row.limit - row.fixed for row in rows])
        self._numbers: list[np.ndarray] = []  # per variable (penalty, rows...)
        self._meaning: list[dict[str, int]] = []  # per variable, decision -> option
        self._equations: list[tuple[dict[int, float], float]] = []  # coefficient by variable; right side
        self._cuts: list[tuple[np.ndarray, float]] = []
        self._chosen = np.zeros(0, dtype=bool)
        self._states = [self._add_states(s, len(rows)) for s in range(1, len(space.description.stages) + 1)]
        units = list(dict.fromkeys(_unit(factor) for row in rows for factor in row.factors.values()))
        for unit in units:
            self._add_unit([[f for f in row.factors.values() if _unit(f) == unit] for row in rows], unit)
        for unit in self._peaks.keys() - set(units):  # without a head, what comes behind the last stage
            self._limit_widths(self._peaks[unit])

    def forbid(self, *, alike: bool = False, parts: Collection[str] | None = None) -> None:
        """Not the last solution again.

        Args:
            alike: nor any other whose tensors are the same.
            parts: nor any whose tensors are the same in these parts ("stage1.block2", "head"), whatever the others are.
        """
        cut = last = self._chosen
        if parts is not None:
            last = last & np.array([_is_about(meaning, parts) for meaning in self._meaning])
            last = last if last.any() else self._chosen
        if alike or parts is not None:
            shapes = {_shape_of(self._meaning[v]) for v in np.flatnonzero(last)}
            cut = np.array([_shape_of(meaning) in shapes for meaning in self._meaning])
        self._cuts.append((cut, last.sum() - 1))

    def solve(self, objective_row: int | None = None) -> np.ndarray | None:
        """Option indices of the best choice; None where there is none.

        Args:
            objective_row: minimize this row instead, without limits.
        """
        numbers = np.array(self._numbers)
        n = len(numbers)
        objective = numbers[:, 0 if objective_row is None else 1 + objective_row]
        if (largest := np.abs(objective).max()) > 0:
            objective = np.ldexp(objective, OBJECTIVE_EXPONENT - math.frexp(largest)[1])
        matrix, right = self._equality(n)
        constraints = [_equal(matrix, right)]
        if objective_row is None:
            constraints += [
                at_most(row[None] / unit, [limit / unit])
                for row, limit in zip(numbers[:, 1:].T, self._limits, strict=True)
                if (unit := _unit_of(row))
            ]
        constraints += [at_most(cut[None].astype(np.float64), [most]) for cut, most in self._cuts]
        solution = solve_program(objective, constraints, np.ones(n), n)
        if solution is None:
            return None
        self._chosen = solution > 0.5
        chosen: dict[str, int] = {}
        for variable in np.flatnonzero(self._chosen):
            chosen |= self._meaning[variable]
        decisions = self._space.decisions
        return decisions.canonical(np.array([chosen.get(d.name, 0) for d in decisions.decisions]))

    def _equality(self, n: int) -> tuple[csr_array, np.ndarray]:
        rows = [r for r, (coefficients, _) in enumerate(self._equations) for _ in coefficients]
        columns = [v for coefficients, _ in self._equations for v in coefficients]
        values = [c for coefficients, _ in self._equations for c in coefficients.values()]
        matrix = csr_array((values, (rows, columns)), shape=(len(self._equations), n))
        return matrix, np.array([right for _, right in self._equations])

    def _variable(self, meaning: dict[str, int], numbers: np.ndarray) -> int:
        self._meaning.append(meaning)
        self._numbers.append(numbers)
        return len(self._numbers) - 1

    def _add_states(self, s: int, rows: int) -> dict[tuple[int, int], int]:
        """(blocks, width) of a stage -> its variable; one of them is chosen."""
        blocks, channels = f"stage{s}.blocks", f"stage{s}.channels"
        found = {}
        for d, few in enumerate(self._penalties[blocks]):
            for c, wide in enumerate(self._penalties[channels]):
                numbers = np.concatenate([[few + wide], np.zeros(rows)])
                found[d, c] = self._variable({blocks: d, channels: c}, numbers)
        self._equations.append((dict.fromkeys(found.values(), 1.0), 1.0))
        return found

    def _limit_widths(self, peak: Factor) -> None:
        """No width of the last stage behind which too many bytes live."""
        assert self._ceiling is not None
        for (_, c), state in self._states[-1].items():
            if peak.entries[c] > self._ceiling.limit:
                self._equations.append(({state: 1.0}, 0.0))

    def _add_unit(self, factors: Sequence[Sequence[Factor]], unit: tuple[str, ...]) -> None:
        """A block or the head: one form per options of what it shares; the sums meet those of the states."""
        ceiling = (self._peaks[unit], self._ceiling.limit) if self._ceiling is not None else None
        apart = SHAPING if self.apart else ()
        forms = unit_forms(self._space.decisions, factors, self._penalties, ceiling=ceiling, apart=apart)
        when = factors[0][0].when
        sums: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for at, (options, numbers) in forms.choices.items():
            shared = dict(zip(forms.shared, at, strict=True))
            variables = [
                self._variable(shared | dict(zip(forms.own, map(int, own), strict=True)), row)
                for own, row in zip(options, numbers, strict=True)
            ]
            for stage in range(1, len(self._states) + 1):
                blocks, channels = f"stage{stage}.blocks", f"stage{stage}.channels"
                key = tuple((name, shared[name]) for name in (blocks, channels) if name in shared)
                if key:
                    sums.setdefault(key, []).extend(variables)
        for key, variables in sums.items():
            options = dict(key)
            stage = int(key[0][0].split(".")[0].removeprefix("stage"))
            first = when[1] if when is not None else 0
            equation = dict.fromkeys(variables, 1.0)
            for (d, c), state in self._states[stage - 1].items():
                there = options.get(f"stage{stage}.blocks", d) == d and options[f"stage{stage}.channels"] == c
                if there and d >= first:
                    equation[state] = -1.0
            self._equations.append((equation, 0.0))


def _equal(matrix: csr_array, right: Any) -> LinearConstraint:
    # Any, as scipy's own annotations know scalars alone.
    return LinearConstraint(matrix, right, right)


def _unit(factor: Factor) -> tuple[str, ...]:
    """What all factors of one block have in common."""
    owner = ".".join(factor.decisions[-1].split(".")[:2])
    return (owner if owner.startswith("stage") else owner.split(".")[0],)


def _is_about(meaning: Mapping[str, int], parts: Collection[str]) -> bool:
    """Whether a variable is a form of one of some parts, or the state of a stage that has one of them."""
    owners = {name.rpartition(".")[0] for name in meaning}
    blocks = {owner for owner in owners if "." in owner} or owners & {"head"}
    if blocks:
        return not blocks.isdisjoint(parts)
    return any(part.startswith(f"{owner}.") for owner in owners for part in parts)


def _shape_of(meaning: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """What a variable says of the tensors: all but kernels and bits."""
    return tuple((name, at) for name, at in meaning.items() if name.rpartition(".")[2] not in SHAPELESS)


def _unit_of(row: np.ndarray) -> float:
    """What to divide a row by: the common divisor of whole entries, and more where they are still large; 0 for none."""
    if not row.any():
        return 0.0
    whole = np.array_equal(row, np.rint(row))
    unit = float(np.gcd.reduce(np.abs(row).astype(np.int64))) if whole else 1.0
    return unit * max(1.0, 2.0 ** (math.frexp(np.abs(row).max() / unit)[1] - 30))
