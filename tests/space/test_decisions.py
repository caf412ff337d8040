"""Forests of decisions against their own enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.errors import RecipeError
from bitsmith.space.decisions import Decision, Decisions


@st.composite
def forests(draw: st.DrawFn) -> Decisions:
    """Up to six decisions of up to three options; each may hang on any before it."""
    made: list[Decision] = []
    for i in range(draw(st.integers(1, 6))):
        options = tuple(range(draw(st.integers(1, 3))))
        parent = draw(st.sampled_from([None, *made]))
        if parent is None:
            made.append(Decision(name=f"d{i}", options=options))
        else:
            when = draw(st.sets(st.integers(0, len(parent.options) - 1)))
            made.append(Decision(name=f"d{i}", options=options, parent=parent.name, when=frozenset(when)))
    return Decisions(decisions=tuple(made))


def every_choice(forest: Decisions) -> dict[tuple[int, ...], dict]:
    """Canonical encoding -> chosen options, by sweeping all vectors and following the definition of active."""
    found = {}
    for vector in itertools.product(*(range(len(d.options)) for d in forest.decisions)):
        chosen: dict[str, int] = {}
        for decision, at in zip(forest.decisions, vector, strict=True):
            if not decision.parent or (decision.parent in chosen and chosen[decision.parent] in decision.when):
                chosen[decision.name] = at
        found[tuple(chosen.get(d.name, 0) for d in forest.decisions)] = chosen
    return found


@given(forest=forests())
def test_counting_and_numbering_are_the_enumeration(forest):
    every = every_choice(forest)
    assert forest.count() == len(every)
    numbered = [tuple(forest.at(number)) for number in range(forest.count())]
    assert set(numbered) == set(every)
    assert len(set(numbered)) == len(numbered)
    for outside in (-1, forest.count()):
        with pytest.raises(IndexError):
            forest.at(outside)


@given(forest=forests(), data=st.data())
def test_inactive_decisions_do_not_matter(forest, data):
    every = every_choice(forest)
    vector = np.array([data.draw(st.integers(0, n - 1)) for n in forest.sizes])
    canonical = forest.canonical(vector)
    assert forest.options(vector) == forest.options(canonical) == every[tuple(canonical)]
    assert np.array_equal(forest.canonical(canonical), canonical)


@given(forest=forests())
def test_neighbors_are_the_canonical_encodings_at_distance_one(forest):
    every = [np.array(vector) for vector in every_choice(forest)]
    for start in every:
        near = {tuple(vector) for vector in every if np.abs(vector - start).sum() == 1}
        found = [tuple(vector) for vector in forest.neighbors(start)]
        assert set(found) == near
        assert len(found) == len(near)


@given(forest=forests(), seed=st.integers(0, 10**6))
def test_a_mutation_changes_one_active_decision_and_what_hangs_on_it(forest, seed):
    generator = np.random.default_rng(seed)
    start = forest.sample(generator)
    active = forest.active(start)
    if not np.any(active & (forest.sizes > 1)):
        with pytest.raises(RecipeError, match="nothing can be mutated"):
            forest.mutate(start, generator)
        return
    moved = forest.mutate(start, generator)
    assert np.array_equal(forest.canonical(moved), moved)
    kept = active & forest.active(moved)  # made before and after
    assert (start != moved)[kept].sum() == 1


def test_a_mutation_reaches_every_form_of_what_it_activates():
    """One block or two, a block of 3 kernels: from one block, two with each of the three kernels."""
    forest = Decisions(
        decisions=(
            Decision(name="blocks", options=(1, 2)),
            Decision(name="kernel", options=(3, 5, 7), parent="blocks", when=frozenset({1})),
        )
    )
    generator = np.random.default_rng(0)
    reached = [tuple(forest.mutate(np.array([0, 0]), generator)) for _ in range(300)]
    assert set(reached) == {(1, 0), (1, 1), (1, 2)}
    assert min(reached.count(vector) for vector in set(reached)) > 60


def test_samples_are_uniform_however_deep_a_choice_lies():
    forest = Decisions(
        decisions=(
            Decision(name="a", options=(0, 1)),
            Decision(name="b", options=(0, 1, 2), parent="a", when=frozenset({1})),
            Decision(name="c", options=(0, 1), parent="b", when=frozenset({2})),
        )
    )
    generator = np.random.default_rng(0)
    draws = [tuple(forest.sample(generator)) for _ in range(5000)]
    counts = [draws.count(vector) for vector in every_choice(forest)]
    assert len(counts) == forest.count() == 5
    assert sum((n - 1000) ** 2 / 1000 for n in counts) < 18.5  # 99.9 % point of chi-squared with 4 degrees of freedom


def test_counts_beyond_every_machine_word():
    """100 decisions of 8 options, and as many again of 7 below each: (7 + 1 * 7)^... by the closed form."""
    decisions = []
    for i in range(100):
        decisions += [
            Decision(name=f"a{i}", options=tuple(range(8))),
            Decision(name=f"b{i}", options=tuple(range(7)), parent=f"a{i}", when=frozenset({0, 3})),
        ]
    forest = Decisions(decisions=tuple(decisions))
    assert forest.count() == (6 + 2 * 7) ** 100
    assert np.array_equal(forest.at(forest.count() - 1), np.array([7, 0] * 100))
    seen = [forest.sample(np.random.default_rng(seed)) for seed in range(200)]
    assert {tuple(vector[:2]) for vector in seen} >= {(7, 0), (3, 6), (0, 0)}
