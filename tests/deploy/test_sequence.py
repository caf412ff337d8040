"""Networks of sequence spaces with float weights; those of integers are among the drawn ones of test_drawn.py."""

from dataclasses import replace

from bitsmith.cost import exact
from bitsmith.deploy import LEVELS, verify_onnx, write_onnx
from bitsmith.space import ADDITIVE, SEQUENCE_SPACES, Sequences
from bitsmith.space.sequence_space import Token


def test_float_weights_verify(case_of, tmp_path):
    """A sequence whose layers have weights of 32 and 2 bits: float layers among integers, as pins have them."""
    description = replace(
        SEQUENCE_SPACES["sequence-28"], channels=(8, 16), layers=(3, 3), strided=(2, 2), weight_bits=(2, 32)
    )
    space = Sequences(description=description, input_shape=(3, 28, 28), outputs=7)
    layers = (
        Token(operator="separable", kernel=3, channels=16, stride=2, weight_bits=32, activation_bits=8),
        Token(operator="conv", kernel=3, channels=16, skip=1, weight_bits=2, activation_bits=8),
        Token(operator="inverted", kernel=5, channels=16, stride=2, weight_bits=32, activation_bits=8),
    )
    blueprint = space.build(layers)
    assert space.layers(blueprint) == layers
    costs = space.additive.of(space.encode(blueprint)[None])[0]
    assert costs.tolist() == [exact(name, blueprint.graph, blueprint.bits) for name in ADDITIVE]
    pairs = [(blueprint.bits[la.name].weight, blueprint.bits[la.name].activation) for la in blueprint.graph.layers]
    case = case_of(blueprint.graph, pairs, seed=0, kind="uint8", images=2)
    path = write_onnx(case.program, tmp_path / "network.onnx")
    found = verify_onnx(path, case.frozen, case.program, case.images, case.labels, levels=tuple(LEVELS)[-1:])
    assert found.problems == ()
    assert found.float_layers > 0
