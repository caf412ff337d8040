"""Networks of the sequence spaces: their files compute what they are, whatever was drawn."""

from dataclasses import replace

import numpy as np
import pytest

from bitsmith.cost import exact
from bitsmith.deploy import LEVELS, verify_onnx, write_onnx
from bitsmith.space import SEQUENCE_SPACES, Sequences

SIDES = {"sequence-28": 18, "sequence-32": 18, "sequence-96": 66}


@pytest.mark.parametrize("name", SIDES)
def test_random_blueprints_verify_to_the_bit(name, case_of, tmp_path, full):
    """The presets, with activations of 2 and 4 bits too; reduced: few, shallow, onnxruntime's highest level."""
    description = replace(SEQUENCE_SPACES[name], activation_bits=(2, 4, 8))
    if not full:
        description = replace(description, layers=(description.layers[0], 4))
    space = Sequences(description=description, input_shape=(3, SIDES[name], SIDES[name]), outputs=7)
    levels = tuple(LEVELS) if full else tuple(LEVELS)[-1:]
    generator = np.random.default_rng(0)
    for seed, row in enumerate(space.automaton.draw(100 if full else 1, generator, by_length=True)):
        blueprint = space.decode(row)
        pairs = [(blueprint.bits[la.name].weight, blueprint.bits[la.name].activation) for la in blueprint.graph.layers]
        case = case_of(blueprint.graph, pairs, seed=seed, kind=("uint8", "float")[seed % 2], images=12 if full else 2)
        path = write_onnx(case.program, tmp_path / "network.onnx")
        found = verify_onnx(path, case.frozen, case.program, case.images, case.labels, levels=levels)
        assert found.problems == (), (seed, found.problems)
        assert set(found.differing_outputs.values()) == {0}
        assert found.float_layers == 0
        priced = exact("size", blueprint.graph, blueprint.bits)
        assert path.stat().st_size <= 1.03 * priced + 1024 * len(blueprint.graph.layers)
