"""The upper rungs of the ladder: ever fewer networks, trained ever longer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bitsmith.search.latent.elsewhere import together
from bitsmith.search.latent.ladder import Evaluator
from bitsmith.search.latent.proposals import Seen
from bitsmith.search.latent.trials import Trial, Trials

if TYPE_CHECKING:  # optuna takes a second
    from bitsmith.search.latent.shared import SharedTrials


def climb(
    trials: Trials | SharedTrials,
    evaluator: Evaluator,
    search: str,
    *,
    choose: Callable[[list[Trial]], list[Trial]],
    tell: Callable[[int, int, int, str], None],
) -> list[list[Trial]]:
    """The trials of every rung, the search's first; those of a higher one that are kept are not trained again.

    Args:
        search: what trials hang on, as a digest.
        choose: the trials of a rung -> those that climb, the best first.
        tell: told the rung, how many of its networks are done, of how many, and what there is to say.
    """
    rungs = [trials.of(0)]
    for rung in range(1, len(evaluator.rungs) + 1):
        numbers = {trial.sequence: trial.number for trial in choose(rungs[-1])}
        _fill(trials, evaluator, search, rung, numbers, tell)
        kept = {trial.sequence: trial for trial in trials.of(rung)}
        rungs.append([kept[sequence] for sequence in numbers])
    return rungs


def _fill(
    trials: Trials | SharedTrials,
    evaluator: Evaluator,
    search: str,
    rung: int,
    numbers: Mapping[tuple[int, ...], int],
    tell: Callable[[int, int, int, str], None],
) -> None:
    """Train what climbs to a rung and isn't trained there yet.

    Args:
        numbers: sequence -> number of the proposal, the best first.
    """

    def left(seen: Sequence[Seen]) -> list[tuple[int, ...]]:
        there = {tuple(s.sequence.tolist()) for s in seen}
        return [sequence for sequence in numbers if sequence not in there]

    def done() -> int:
        there = {trial.sequence for trial in trials.of(rung)}
        return sum(sequence in there for sequence in numbers)

    def number(row: np.ndarray, _: int) -> int:
        return numbers[tuple(row.tolist())]

    trials.fill(
        rung,
        more=lambda seen: bool(left(seen)),
        choose=lambda seen, _: next((np.array(sequence) for sequence in left(seen)), None),
        evaluate=lambda row, n: evaluator.evaluate(row, number(row, n), rung),
        together=together(
            evaluator,
            rung,
            search,
            most=lambda _: len(numbers),
            tell=lambda n, note: tell(rung, n, len(numbers), note),
            number=number,
            before=lambda _: done(),
        ),
    )
