"""Proposals: networks of the space, new, inside the budgets, the same from the same trials."""

import numpy as np
from latents import SMALL, proposer
from sequences import sequences, tiny_sequences

from bitsmith.blueprint import Budget
from bitsmith.cost import fits
from bitsmith.search.latent import Autoencoder, Seen
from bitsmith.space import Stem


def test_proposals_are_new_and_inside(space, model, every):
    rows, params, scores = every
    budgets = [Budget(cost="params", limit=float(np.quantile(params, 0.3))), Budget.parse("size=1kB")]
    found = proposer(space, model, *budgets)
    seen = [Seen(sequence=rows[i], score=float(scores[i])) for i in range(0, len(rows), 90)]
    seen[3:5] = [Seen(sequence=seen[3].sequence, score=float("nan")), Seen(sequence=seen[4].sequence, score=None)]
    proposed = found.propose(seen, 3, 0)
    assert len({row.tobytes() for row in [*proposed, *(s.sequence for s in seen)]}) == len(seen) + 3
    for row in proposed:
        blueprint = space.decode(row)
        assert fits(blueprint.graph, blueprint.bits, budgets)
    again = found.propose(seen, 3, 0)
    assert [row.tolist() for row in again] == [row.tolist() for row in proposed]


def test_a_space_is_used_up():
    """Six networks: after all of them there is nothing to propose."""
    few = sequences(tiny_sequences(stem=Stem(channels=4), channels=(4,), layers=(1, 2), strided=(0, 0), skips=(0, 1),
                                   operators=("conv",)), input_shape=(1, 8, 8))  # fmt: skip
    every = [few.automaton.at(number) for number in range(few.count())]
    assert len(every) == 6
    found = proposer(few, Autoencoder(few.automaton, SMALL).eval())
    left = found.propose([Seen(sequence=row, score=float(i)) for i, row in enumerate(every[:4])], 5, 0)
    assert sorted(row.tolist() for row in left) == sorted(row.tolist() for row in every[4:])
    assert found.propose([Seen(sequence=row, score=0.5) for row in every], 1, 0) == []
    assert found.draw(every, 0) is None
