"""Networks of the mobile spaces: their files compute what they are, whatever was drawn."""

from dataclasses import replace

import numpy as np
import pytest

from bitsmith.cost import exact
from bitsmith.deploy import LEVELS, verify_onnx, write_onnx
from bitsmith.space import MOBILE_SPACES, Mobile

# Sides of the images: small ones, so that whole networks take little time.
SIDES = {"mobile-32": 16, "mobile-64": 32, "mobile-224": 64}


@pytest.mark.parametrize("name", SIDES)
def test_random_blueprints_verify_to_the_bit(name, case_of, tmp_path, full):
    """The presets; in the reduced tier at most one block per stage and onnxruntime's highest level alone."""
    space, levels = MOBILE_SPACES[name], tuple(LEVELS)
    if not full:
        space = replace(space, stages=tuple(replace(stage, blocks=(1, 1)) for stage in space.stages[:4]))
        levels = levels[-1:]
    shallow = Mobile(description=space, input_shape=(3, SIDES[name], SIDES[name]), outputs=7)
    generator = np.random.default_rng(0)
    for seed in range(100 if full else 4):
        blueprint = shallow.sample(generator)
        pairs = [(blueprint.bits[la.name].weight, blueprint.bits[la.name].activation) for la in blueprint.graph.layers]
        case = case_of(blueprint.graph, pairs, seed=seed, kind=("uint8", "float")[seed % 2], images=12 if full else 4)
        path = write_onnx(case.program, tmp_path / "network.onnx")
        found = verify_onnx(path, case.frozen, case.program, case.images, case.labels, levels=levels)
        assert found.problems == (), (seed, found.problems)
        assert set(found.differing_outputs.values()) == {0}
        assert found.float_layers == 0
        priced = exact("size", blueprint.graph, blueprint.bits)
        assert path.stat().st_size <= 1.03 * priced + 1024 * len(blueprint.graph.layers)
