"""A small network with all kinds of coupling."""

from graphs import Sketch

from bitsmith.blueprint import NetworkGraph


def inverted() -> NetworkGraph:
    """A stem of 6, an inverted residual of 8 with a gate, a concatenation with an affine."""
    s = Sketch()
    y = s.same("relu6", "r0", s.conv("stem", "x", 6))
    start = y
    y = s.same("relu6", "r1", s.conv("expand", y, 8, kernel=1))
    y = s.gate("se", s.same("relu6", "r2", s.conv("depth", y, 8, groups=8)))
    y = s.same("add", "add", s.conv("project", y, 6, kernel=1), start)
    y = s.concat("cat", y, s.same("relu", "r3", s.affine("affine", y)))
    y = s.same("relu", "r4", s.conv("grouped", y, 8, groups=2))
    return s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 5))
