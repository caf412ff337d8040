"""Random small networks over all that a search may return, for whoever lowers, writes or runs networks.

One strategy draws topology (the whole vocabulary, networks of mobile and of sequence spaces), bits (of layers, of
filters and maps, filters removed, layers left float), quantizer and input. What it gives are the arguments of
`case_of`, which builds, freezes and lowers a network.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import graphs
import numpy as np
from hypothesis import strategies as st
from sequences import sequence_descriptions, sequences
from spaces import descriptions, mobile

from bitsmith.blueprint import FLOAT, Blueprint, NetworkGraph, prune
from bitsmith.errors import RunError
from bitsmith.quantize import QUANTIZERS
from bitsmith.space import MOBILE_SPACES, SEQUENCE_SPACES, Mobile, Sequences

_WIDTHS = st.integers(1, 8)
_FLOATS = [(FLOAT, FLOAT), (FLOAT, FLOAT), (FLOAT, 3), (FLOAT, 8), (1, FLOAT), (4, FLOAT), (8, FLOAT)]
# Sides of images that are small for the presets.
_SIDES = {"mobile-32": 16, "mobile-64": 32, "sequence-28": 18, "sequence-32": 18, "sequence-96": 66}


@st.composite
def networks(draw: st.DrawFn, *, floats: bool = True, presets: bool = False) -> dict[str, Any]:
    """A network as `case_of` takes it.

    Args:
        floats: some have layers, or all that lies between them, left float.
        presets: some are of the presets of mobile and sequence spaces, which are larger.
    """
    source = draw(st.sampled_from(["vocabulary", "vocabulary", "vocabulary", "mobile", "sequence"]))
    seed = draw(st.integers(0, 10**6))
    generator = np.random.default_rng(seed)
    if source == "vocabulary":
        graph = draw(graphs.random_graphs(steps=(2, 10), functions=6).filter(lambda graph: graph.layers))
        bits = [(draw(_WIDTHS), draw(_WIDTHS)) for _ in graph.layers]
    else:
        space: Mobile | Sequences
        if source == "mobile":
            space = mobile(draw(descriptions()))
        else:
            space = sequences(draw(sequence_descriptions()), side=18)
        if presets and draw(st.booleans()):
            name = draw(st.sampled_from([name for name in _SIDES if name.startswith(source)]))
            changes = {"input_shape": (3, _SIDES[name], _SIDES[name]), "outputs": 7}
            if source == "mobile":
                space = Mobile(description=MOBILE_SPACES[name], **changes)
            else:
                space = Sequences(description=replace(SEQUENCE_SPACES[name], activation_bits=(2, 4, 8)), **changes)
        blueprint = min((space.sample(generator) for _ in range(5)), key=lambda drawn: len(drawn.graph.nodes))
        graph = blueprint.graph
        bits = [(blueprint.bits[layer.name].weight, blueprint.bits[layer.name].activation) for layer in graph.layers]
    quantizer = draw(st.sampled_from(["lsq", "lsq", "lsq-pow2", "lsq-pow2", "pact", "gaussian", "nice"]))
    if draw(st.booleans()):
        graph, bits = draw(_of_filters(graph, maps=QUANTIZERS[quantizer].maps is not None))
    stream_bits = 8
    if floats and draw(st.sampled_from([True, False, False])):
        stream_bits = draw(st.sampled_from([8, 8, FLOAT]))
        bits = [draw(st.sampled_from(_FLOATS)) if draw(st.booleans()) else pair for pair in bits]
        bits[0] = draw(st.sampled_from(_FLOATS))  # float streams are those of networks with a float layer
    kind = draw(st.sampled_from(["uint8", "uint8", "float"]))
    return {
        "graph": graph, "bits": bits, "quantizer": quantizer, "stream_bits": stream_bits, "kind": kind, "seed": seed,
    }  # fmt: skip


@st.composite
def _of_filters(draw: st.DrawFn, graph: NetworkGraph, *, maps: bool) -> tuple[NetworkGraph, list[Any]]:
    """Bits per filter and per map; filters removed, with all that is coupled with them, where a network is left."""
    for zeros in (draw(st.booleans()), False):
        found = Blueprint(graph=graph, bits=draw(graphs.filter_bits(graph, zeros=zeros, maps=maps)))
        try:
            found = prune(found).blueprint if zeros or draw(st.booleans()) else found
        except RunError:
            continue
        return found.graph, [(bits.weight, bits.activation) for bits in found.bits.values()]
    raise AssertionError("a network without removed filters is one")
