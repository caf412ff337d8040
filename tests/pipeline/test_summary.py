"""What a record says of filters that a search removed."""

import pytest
from torch import nn

from bitsmith.blueprint import FLOAT, Bits, Blueprint
from bitsmith.capture import capture
from bitsmith.pipeline.folder import Entry
from bitsmith.pipeline.summary import layer_rows, left, removed_filters, spell_filters

ENTRY = Entry(
    name="filters",
    kind="found",
    budgets=("size=5kB",),
    details={"filters": {"0": {"0": 12, "2": 4}, "2": {"4": 8, "8": 2}}},
)


def test_what_was_removed_comes_from_the_search():
    assert removed_filters(ENTRY.details) == {"0": 12}
    assert left(ENTRY.details) == ", 14 of 26 filters"
    assert left({}) == ""
    assert left({"filters": {"0": {"8": 4}}}) == ""


@pytest.mark.parametrize(
    ("widths", "removed", "words"),
    [
        ((2, 2, 2, 2), 12, "16 filters: 12 removed, 4 at 2 bits"),
        ((8, 1, 8), 0, "3 filters: 1 at 1 bit, 2 at 8 bits"),
        ((8, 8), 0, ""),
        ((FLOAT, 4), 1, "3 filters: 1 removed, 1 at 4 bits, 1 float"),
    ],
)
def test_filters_in_words(widths, removed, words):
    assert spell_filters(widths, removed) == words


def test_every_layer_says_its_own():
    graph = capture(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 10, 1), nn.Flatten()), (1, 3, 3)).graph
    first, last = (layer.name for layer in graph.layers)
    bits = {first: Bits(weight=2, activation=8), last: Bits(weight=(4,) * 8 + (8,) * 2, activation=8)}
    rows = layer_rows(Blueprint(graph=graph, bits=bits), {first: 12})
    assert [row.filters for row in rows] == [
        "16 filters: 12 removed, 4 at 2 bits",
        "10 filters: 8 at 4 bits, 2 at 8 bits",
    ]
