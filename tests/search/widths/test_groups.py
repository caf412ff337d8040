"""Which channels share a width: graphs whose groups one can count by hand."""

import graphs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inverted import inverted

from bitsmith.search.widths import width_groups
from bitsmith.space import narrow


def test_groups_of_resnet8():
    graph = graphs.resnet8()
    coupled, blocks = width_groups(graph, blocks=False), width_groups(graph, blocks=True)
    assert coupled.channels == (16, 16, 32, 32, 64, 64)
    assert coupled.groups[0].layers == ("stem", "a.conv2")
    assert blocks.channels == (16, 32, 64)
    assert blocks.groups[1].layers == ("b.conv1", "b.conv2", "b.down")
    assert coupled.scaled(0.25) == (4, 4, 8, 8, 16, 16)
    assert coupled.scaled(1.0) == coupled.channels


def test_coupled_groups_of_an_inverted_residual():
    """The stream with project and affine; expand with depthwise and gate; one of two groups of the grouped one."""
    groups = width_groups(inverted(), blocks=False)
    assert [set(group.layers) for group in groups.groups] == [
        {"stem", "project", "affine"},
        {"expand", "depth", "se.fc"},
        {"grouped"},
    ]
    assert groups.groups[2].channels == 4  # the other group follows
    graph = groups.network((5, 3, 2))
    assert [graph[name].shape[0] for name in ("project", "depth", "se.fc", "affine", "cat", "grouped")] == [
        5, 3, 3, 5, 10, 4,
    ]  # fmt: skip
    assert graph["depth"].groups == 3
    assert graph["grouped"].groups == 2


@pytest.mark.parametrize("draw", [graphs.resnet8, inverted, graphs.chain])
@pytest.mark.parametrize("blocks", [False, True])
def test_homogeneous_widths_are_those_of_narrower_networks(draw, blocks):
    groups = width_groups(draw(), blocks=blocks)
    for share in (0.25, 0.5, 0.75, 1.0):
        assert groups.network(groups.scaled(share)) == narrow(draw(), share)


@settings(max_examples=20)
@given(st.data())
def test_channels_are_prefixes_and_wider_keeps_all_that_narrower_does(data):
    groups = width_groups(inverted(), blocks=data.draw(st.booleans()))
    wide = tuple(data.draw(st.integers(1, c)) for c in groups.channels)
    thin = tuple(data.draw(st.integers(1, w)) for w in wide)
    kept, fewer = groups.kept(wide), groups.kept(thin)
    assert not (fewer & ~kept).any()
    for group, width in zip(groups.groups, wide, strict=True):
        for units in group.sets:
            assert np.array_equal(kept[units], np.arange(len(units)) < width)


def test_shuffled_channels_keep_their_width():
    s = graphs.Sketch()
    y = s.conv("stem", "x", 4)
    y = s.put("shuffle", "mix", s.nodes[y].shape, y, groups=2)
    y = s.conv("tail", y, 6)
    graph = s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 5))
    assert [group.layers for group in width_groups(graph, blocks=False).groups] == [("tail",)]
