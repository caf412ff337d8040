"""The front against the definition, one pair at a time."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.report import Row, front_cost, limited_costs, on_front

ROW = Row(
    name="composite",
    kind="found",
    budget="size=10kB",
    bits="w4a8",
    costs={"size": 1.0, "ram": 5.0, "weights": 1.0},
    epochs=1,
    seconds=1,
    seed=0,
    metric="accuracy",
    validation=0.5,
    test=0.5,
    source="onnx",
    meets={"ram=5B": True, "size=10kB": True},
    trained=True,
    folder="a",
)


def rows(points):
    return [replace(ROW, costs=ROW.costs | {"size": float(size)}, test=test) for size, test in points]


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(10, 0.90), (12, 0.89), (15, 0.91)], [True, False, True]),
        ([(10, 0.90), (10, 0.91)], [False, True]),
        ([(10, 0.90), (11, 0.90)], [True, False]),
        ([(10, 0.90), (10, 0.90)], [True, True]),
        ([(10, None), (20, 0.1)], [False, True]),
        ([], []),
    ],
)
def test_small_fronts(points, front):
    assert on_front(rows(points), "size") == front


def test_the_float_network_is_not_on_the_front_and_beats_nobody():
    made = rows([(1, 0.99), (10, 0.9)])
    assert on_front([replace(made[0], kind="float"), made[1]], "size") == [False, True]


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_everything_off_the_front_is_beaten_by_something_on_it(points):
    made = rows([(size, test / 10) for size, test in points])
    marks = on_front(made, "size")
    assert any(marks)
    for (size, test), mark in zip(points, marks, strict=True):
        beaten = any(s <= size and t >= test and (s, t) != (size, test) for s, t in points)
        assert mark != beaten


def test_a_front_is_marked_over_the_first_budget_that_networks_differ_in():
    """Else over the first of all, so that there is a figure of the same front."""
    assert front_cost(rows([(1, 0.5), (2, 0.5)])) == "size"
    assert front_cost([replace(row, meets={}) for row in rows([(1, 0.5), (2, 0.5)])]) == "size"
    assert front_cost([replace(row, meets={"weights=3B": True}) for row in rows([(1, 0.5), (2, 0.5)])]) == "weights"
    differ = [
        replace(row, costs={"size": 1.0, "weights": w}) for row, w in zip(rows([(1, 0)] * 2), (1.0, 2.0), strict=True)
    ]
    assert front_cost([replace(row, meets={"weights=3B": True}) for row in differ]) == "weights"


def test_every_budgeted_cost_is_told_once_in_the_order_of_the_figures():
    made = [replace(ROW, meets={"ram=5B": True, "size=10kB": True, "size=20kB": True, "weights=3B": False}), ROW]
    assert limited_costs(made) == ["weights", "size", "ram"]
    assert limited_costs([replace(ROW, meets={})]) == []
