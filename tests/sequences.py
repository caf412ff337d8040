"""Small sequence spaces."""

from hypothesis import strategies as st

from bitsmith.space import Sequences, SequenceSpace, Stem


def tiny_sequences(**changes) -> SequenceSpace:
    """Every kind of layer, few of each."""
    fields = {
        "stem": Stem(channels=4),
        "channels": (4, 8),
        "layers": (1, 3),
        "strided": (1, 2),
        "kernels": (3,),
        "skips": (0, 1, 2),
        "expansion": 2,
        "weight_bits": (4,),
        "activation_bits": (8,),
    }
    return SequenceSpace(**(fields | changes))


def sequences(description: SequenceSpace, side: int = 8, **changes) -> Sequences:
    return Sequences(description=description, **({"input_shape": (3, side, side), "outputs": 3} | changes))


@st.composite
def sequence_descriptions(draw: st.DrawFn) -> SequenceSpace:
    """Small spaces of every shape."""

    def some(*values):
        return tuple(sorted(draw(st.sets(st.sampled_from(values), min_size=1, max_size=2))))

    least = draw(st.integers(1, 2))
    strided = draw(st.integers(0, 1))
    others = draw(st.sets(st.sampled_from(["separable", "inverted", "max_pool"])))
    narrowing = draw(st.booleans())
    return SequenceSpace(
        stem=Stem(channels=draw(st.sampled_from([2, 4])), stride=draw(st.integers(1, 2))),
        channels=some(2, 4, 6) if narrowing else some(4, 6, 8),
        layers=(least, draw(st.integers(least, 4))),
        strided=(strided, draw(st.integers(strided, 2))),
        operators=("conv", *sorted(others)),
        kernels=some(1, 3, 5),
        skips=(0, *some(1, 2, 3)),
        expansion=draw(st.integers(1, 3)),
        narrowing=narrowing,
        weight_bits=some(1, 2, 8),
        activation_bits=some(2, 4, 8),
        ends=draw(st.sampled_from([4, 8])),
    )
