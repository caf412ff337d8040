"""Forms: what a block may look like by itself, per widths around it, without those that another form beats."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bitsmith.search.supernet.factors import Factor
from bitsmith.space.decisions import Decisions


@dataclass(frozen=True, kw_only=True)
class Forms:
    """Undominated forms of a block or the head.

    Args:
        shared: decisions that other blocks depend on too.
        own: the others.
        choices: options of `shared` -> (own options [forms, decisions], (penalty, rows...) [forms, 1 + rows]).
    """

    shared: tuple[str, ...]
    own: tuple[str, ...]
    choices: Mapping[tuple[int, ...], tuple[np.ndarray, np.ndarray]]


def unit_forms(
    decisions: Decisions,
    factors: Sequence[Sequence[Factor]],
    penalties: Mapping[str, np.ndarray],
    *,
    ceiling: tuple[Factor, float] | None = None,
    apart: Collection[str] = (),
) -> Forms:
    """The forms of one block.

    Args:
        factors: per row the block's factors, in the same order.
        penalties: decision -> one number per option.
        ceiling: forms for which this factor is above this limit are left out too.
        apart: forms that differ in such a decision ("expansion") are kept beside each other, whatever they cost.
    """
    first = factors[0]
    names = list(dict.fromkeys(name for factor in first for name in factor.decisions))
    shared = tuple(name for name in names if _is_shared(name))
    own = tuple(name for name in names if not _is_shared(name))
    sizes = [len(decisions.decisions[decisions.index[name]].options) for name in shared]
    found = {}
    for at in np.ndindex(*sizes):
        options, numbers = np.zeros((1, 0), dtype=np.int64), np.zeros((1, 1 + len(factors)))
        known: list[str] = []
        if shared[-1] == "head.channels":
            numbers[:, 0] += penalties["head.channels"][at[-1]]
        for k, factor in enumerate(first):
            entries = np.stack([row[k].entries[at] for row in factors])
            new = [name for name in factor.decisions if not _is_shared(name) and name not in known]
            options, numbers = _crossed(decisions, known, new, options, numbers, penalties)
            known += new
            place = [known.index(name) for name in factor.decisions if not _is_shared(name)]
            numbers[:, 1:] += entries[:, *options[:, place].T].T
            if ceiling is not None and k == 0:  # the first factor has all that shapes tensors
                inside = _values(ceiling[0], dict(zip(shared, at, strict=True)), known, options) <= ceiling[1]
                options, numbers = options[inside], numbers[inside]
            columns = [i for i, name in enumerate(known) if name.rpartition(".")[2] in apart]
            same = options[:, :4] if k + 1 < len(first) else options[:, columns]  # what later factors depend on
            keep = _undominated(numbers, same)
            options, numbers = options[keep], numbers[keep]
        found[at] = (options, numbers)
    return Forms(shared=shared, own=own, choices=found)


def _values(factor: Factor, shared: Mapping[str, int], known: Sequence[str], options: np.ndarray) -> np.ndarray:
    """What a factor is for each form, [forms]."""
    at = [
        np.full(len(options), shared[name]) if name in shared else options[:, known.index(name)]
        for name in factor.decisions
    ]
    return factor.entries[tuple(at)]


def _is_shared(name: str) -> bool:
    return name.endswith((".channels", ".blocks"))


def _crossed(
    decisions: Decisions,
    known: Sequence[str],
    new: Sequence[str],
    options: np.ndarray,
    numbers: np.ndarray,
    penalties: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Every form with every option of more decisions and their penalties; one that isn't made stands at 0, for free."""
    for i, name in enumerate(new):
        decision = decisions.decisions[decisions.index[name]]
        n = len(decision.options)
        before = options
        options = np.concatenate([np.repeat(before, n, axis=0), np.tile(np.arange(n), len(before))[:, None]], axis=1)
        numbers = np.repeat(numbers, n, axis=0)
        names = [*known, *new[:i]]
        made = np.ones(len(options), dtype=bool)
        if decision.parent in names:
            made = np.isin(options[:, names.index(decision.parent)], list(decision.when))
        numbers[:, 0] += np.where(made, penalties[name][options[:, -1]], 0)
        keep = made | (options[:, -1] == 0)
        options, numbers = options[keep], numbers[keep]
    return options, numbers


def _undominated(numbers: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Indices of the rows that no other row of their group beats or equals in every number."""
    kept: list[int] = []
    if groups.shape[1]:
        _, label = np.unique(groups, axis=0, return_inverse=True)
    else:
        label = np.zeros(len(numbers), dtype=np.int64)
    for group in np.unique(label):
        members = np.flatnonzero(label.reshape(-1) == group)
        left = members[np.lexsort(numbers[members].T[::-1])]  # nothing beats what comes before it
        while len(left):
            kept.append(int(left[0]))
            left = left[~(numbers[left[0]] <= numbers[left]).all(axis=1)]
    return np.array(sorted(kept), dtype=np.int64)
