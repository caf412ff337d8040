"""Which networks to evaluate next, from what was evaluated: a function of the trials and a seed, with no state.

The first ones are drawn inside the budgets, evenly over log MACs. Then, for each:

1. Codes are drawn from the prior and around the best so far; those that promise most (`Promise`) climb by gradients.
2. All are projected onto what the convex predictor believes to be inside the budgets, and decoded.
3. Networks met before are left out, and so are those outside a budget, by costs computed exactly.
4. The rest are encoded again, and the one that promises most *there* is taken, beside what is pending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import final

import numpy as np
import torch
from torch import Tensor

from bitsmith.blueprint import Budget
from bitsmith.cost import exact, fits
from bitsmith.search.latent.autoencoder import PREDICTED, Autoencoder
from bitsmith.search.latent.drawing import draw_codes
from bitsmith.search.latent.projection import project
from bitsmith.search.latent.surrogate import Evidence, Promise
from bitsmith.search.sequence_inside import drawn_inside, extreme_sequence, some_sequence
from bitsmith.seeding import derive, numpy_generator
from bitsmith.space import ADDITIVE, Sequences

_POOL, _FRONT_POOL = 1000, 200  # codes drawn for a proposal
_BEST = 5  # trials around which codes are drawn
_CLIMBING = 6


@final
@dataclass(frozen=True, kw_only=True)
class Seen:
    """An evaluation as proposals see it.

    Args:
        sequence: of the network evaluated, int64 [length].
        score: larger is better; NaN where it failed, None while it is going on.
    """

    sequence: np.ndarray
    score: float | None


@final
@dataclass(frozen=True)
class Proposer:
    """Proposes networks of a space.

    Args:
        space: of the networks.
        model: its autoencoder.
        budgets: hard limits on every network proposed.
        traded: costs that the score is traded against; none for one objective.
    """

    space: Sequences
    model: Autoencoder
    budgets: tuple[Budget, ...]
    traded: tuple[str, ...] = ()

    def draw(self, known: Sequence[np.ndarray], seed: int) -> np.ndarray | None:
        """A random network inside the budgets that isn't known, evenly over log MACs; None where none is found.

        Where draws find none, as under tight budgets, `some_sequence`, or a neighbor of one that is known.
        """
        met = {row.tobytes() for row in known}
        row = drawn_inside(self.space, self.budgets, numpy_generator(seed, "draw"), known=met)
        if row is not None:
            return row
        small = [self.space.encode(some_sequence(self.space, self.budgets))] if self.budgets else []
        near = (other for row in known for other in self.space.edits.neighbors(row))
        return next((row for row in chain(small, near) if row.tobytes() not in met and self._is_inside(row)), None)

    def _is_inside(self, row: np.ndarray) -> bool:
        blueprint = self.space.decode(row)
        return fits(blueprint.graph, blueprint.bits, self.budgets, self.space.costs)

    def propose(self, seen: Sequence[Seen], n: int, seed: int) -> list[np.ndarray]:
        """Up to `n` networks to evaluate next, the most promising first; fewer where the space is used up.

        Args:
            seen: what was evaluated or is being evaluated; at least two scores that aren't NaN, else they are drawn.
            seed: of this proposal.

        Returns:
            Sequences, int64 [length], different from each other and from all that were seen.
        """
        found: list[np.ndarray] = []
        if sum(s.score is not None and not np.isnan(s.score) for s in seen) >= 2:
            promise = Promise(self._evidence(seen), derive(seed, "promise"))
            for k in range(n):
                best = self._next(seen, found, promise, derive(seed, "codes", k))
                if best is None:
                    break
                row, candidate = best
                promise.pending = torch.cat([promise.pending, candidate[None]])
                found.append(row)
        known = [s.sequence for s in seen]
        while len(found) < n:
            drawn = self.draw([*known, *found], derive(seed, "fill", len(found)))
            if drawn is None:
                break
            found.append(drawn)
        return found

    def _next(
        self, seen: Sequence[Seen], found: Sequence[np.ndarray], promise: Promise, seed: int
    ) -> tuple[np.ndarray, Tensor] | None:
        """The network that promises most, and its row of code and log costs."""
        met = {s.sequence.tobytes() for s in seen} | {row.tobytes() for row in found}
        codes = draw_codes(_FRONT_POOL if self.traded else _POOL, self._centers(seen), seed)
        rows, candidates = self._decoded(codes, met)
        values = promise.of(candidates) if len(rows) else torch.zeros(0, dtype=torch.float64)
        start = candidates[values.argsort(descending=True, stable=True)[:_CLIMBING], : codes.shape[1]]
        if len(start):
            climbed = promise.climb(start, self._leading).float()
            more, further = self._decoded(climbed, met | {row.tobytes() for row in rows})
            if len(more):
                rows, candidates = np.concatenate([rows, more]), torch.cat([candidates, further])
                values = torch.cat([values, promise.of(further)])
        for at in values.argsort(descending=True, stable=True).tolist():
            if self._is_inside(rows[at]):
                return rows[at], candidates[at]
        return None

    def _decoded(self, codes: Tensor, met: set[bytes]) -> tuple[np.ndarray, Tensor]:
        """The networks of codes that are new and inside the additive budgets, and their rows of code and log costs."""
        drawn = self.model.decode(project(self.model, codes, self.budgets)).numpy()
        rows = np.unique(drawn, axis=0)
        rows = rows[[row.tobytes() not in met for row in rows]]
        costs = self.space.additive.of(rows)
        for budget in self.budgets:
            if budget.cost in ADDITIVE:
                inside = costs[:, ADDITIVE.index(budget.cost)] <= budget.limit
                rows, costs = rows[inside], costs[inside]
        return rows, self.placed(rows)

    @torch.no_grad()
    def placed(self, rows: np.ndarray) -> Tensor:
        """Codes of networks and the logarithms of the costs traded, exact, float64 [n, d + m]."""
        if len(rows) == 0:
            return torch.zeros(0, self.model.widths.code + len(self.traded), dtype=torch.float64)
        codes = self.model.encode(torch.from_numpy(rows))
        logs = np.log([list(self.priced(row).values()) for row in rows])
        return torch.cat([codes.double(), torch.from_numpy(logs)], 1)

    def priced(self, row: np.ndarray) -> Mapping[str, float]:
        """The costs traded of one network, exact."""
        if not self.traded:
            return {}
        blueprint = self.space.decode(row)
        return {name: exact(name, blueprint.graph, blueprint.bits, self.space.costs) for name in self.traded}

    def _evidence(self, seen: Sequence[Seen]) -> Evidence:
        d = self.model.widths.code
        done = [s for s in seen if s.score is not None]
        rows = self.placed(np.stack([s.sequence for s in done]))
        pending = np.array([s.sequence for s in seen if s.score is None])
        return Evidence(
            codes=rows[:, :d],
            costs=rows[:, d:],
            scores=torch.tensor([s.score for s in done], dtype=torch.float64),
            pending=self.placed(pending),
            worst=torch.tensor([np.log(self._greatest[name]) for name in self.traded], dtype=torch.float64),
        )

    @cached_property
    def _greatest(self) -> dict[str, float]:
        """Of each cost traded what counts at most: its budget, or the greatest of the space."""
        found = {}
        for name in self.traded:
            limits = [budget.limit for budget in self.budgets if budget.cost == name]
            most = extreme_sequence(self.space, name, greatest=True)
            found[name] = min([*limits, exact(name, most.graph, most.bits, self.space.costs)])
        return found

    def _leading(self, codes: Tensor) -> Tensor:
        """Predicted logarithms of the costs traded, [n, m]; of costs that aren't predicted those of the nearest one.

        bitops and MACs, and all others and params, rise and fall together within the space.
        """
        if not self.traded:
            return codes.new_zeros(len(codes), 0)
        columns = [PREDICTED.index("macs" if name in ("macs", "bitops") else "params") for name in self.traded]
        return self.model.predict(codes.float())[:, columns]

    def _centers(self, seen: Sequence[Seen]) -> Tensor:
        scored = [(s.score, s.sequence) for s in seen if s.score is not None and not np.isnan(s.score)]
        best = sorted(scored, key=lambda pair: -pair[0])[:_BEST]
        return self.placed(np.stack([row for _, row in best]))[:, : self.model.widths.code].float()
