"""Small mobile spaces."""

from hypothesis import strategies as st

from bitsmith.space import Mobile, MobileSpace, Stage, Stem


def tiny(**changes) -> MobileSpace:
    """Two stages, with every kind of choice somewhere."""
    first = Stage(channels=(4, 8), expansions=(1.0, 2.0), kernels=(3,), squeeze_excite=(False,), activations=("relu",))
    second = Stage(channels=(8,), blocks=(1, 2), stride=2, expansions=(1.5,), kernels=(3, 5))
    fields = {
        "stem": Stem(channels=4),
        "stages": (first, second),
        "weight_bits": (2, 8),
        "activation_bits": (4, 8),
        "divisor": 2,
    }
    return MobileSpace(**(fields | changes))


def mobile(description: MobileSpace, side: int = 8, **changes) -> Mobile:
    return Mobile(description=description, **({"input_shape": (3, side, side), "outputs": 3} | changes))


@st.composite
def descriptions(draw: st.DrawFn) -> MobileSpace:
    """Small spaces of every shape: many decisions, few options each."""

    def some(*values):
        return tuple(sorted(draw(st.sets(st.sampled_from(values), min_size=1, max_size=2))))

    stages = []
    for _ in range(draw(st.integers(1, 3))):
        least = draw(st.integers(1, 2))
        stages.append(
            Stage(
                channels=some(4, 6, 8),
                blocks=(least, draw(st.integers(least, 3))),
                stride=draw(st.integers(1, 2)),
                kernels=some(1, 3, 5),
                expansions=some(0.5, 0.9, 1.0, 2.0, 3.5),  # .9 may be as wide as 1, which has no expanding convolution
                squeeze_excite=some(False, True),
                activations=some("relu", "relu6", "hard_swish"),
            )
        )
    return MobileSpace(
        stem=Stem(channels=draw(st.sampled_from([4, 6])), stride=draw(st.integers(1, 2))),
        stages=tuple(stages),
        head=draw(st.sampled_from([(), (8,), (8, 12)])),
        activation=draw(st.sampled_from(["relu", "hard_swish"])),
        weight_bits=some(1, 2, 8),
        activation_bits=some(2, 4, 8),
        bits=draw(st.sampled_from(["block", "layer"])),
        divisor=draw(st.sampled_from([1, 2])),
    )
