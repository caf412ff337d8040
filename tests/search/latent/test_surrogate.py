"""What the surrogate promises: more where scores are good, less where evaluations failed or are pending."""

import torch

from bitsmith.search.latent.surrogate import Evidence, Promise

D = 6


def best_at(codes):
    """One best code, (1, 1, 0, ...)."""
    return -(codes[:, 0] - 1).square() - (codes[:, 1] - 1).square()


def evidence(m=0, failed=None, n=24, pending=None):
    codes = torch.randn(n, D, generator=torch.Generator().manual_seed(0)).double()
    scores = best_at(codes)
    if failed is not None:
        scores[failed(codes)] = torch.nan
    return Evidence(
        codes=codes,
        costs=codes[:, :m] + 3,
        scores=scores,
        pending=torch.zeros(0, D + m) if pending is None else pending,
        worst=torch.full((m,), 6.0),
    )


def at(*firsts):
    return torch.tensor([[*first, *[0.0] * (D - len(first))] for first in firsts]).double()


def test_promises_where_scores_are_good():
    promise = Promise(evidence(), 1)
    good, bad = promise.of(at((1, 1), (-2, -2))).tolist()
    assert good > bad + 2
    assert Promise(evidence(), 1).of(at((1, 1), (-2, -2))).tolist() == [good, bad]
    climbed = promise.climb(at((0.3, 0.2), (0.0, 0.0)), lambda x: x.new_zeros(len(x), 0))
    assert (promise.of(climbed) >= promise.of(at((0.3, 0.2), (0.0, 0.0)))).all()
    assert best_at(climbed).min() > best_at(at((0.3, 0.2))).max()
    assert torch.get_num_threads() == 1


def test_pending_networks_promise_no_second_time():
    """A candidate beside one like it that is pending adds less than one elsewhere that was worth as much."""
    promise = Promise(evidence(), 1)
    alone = promise.of(at((1, 1), (1.0, 1.0, 1.5)))
    promise.pending = at((1, 1))
    beside = promise.of(at((1, 1), (1.0, 1.0, 1.5)))
    assert beside[0] - alone[0] < beside[1] - alone[1]


def test_what_failed_is_infeasible():
    """All codes with a large first number fail: the best one that doesn't is promised, not the best."""
    with_failures = Promise(evidence(failed=lambda z: z[:, 0] > 0.4, n=40), 1)
    risky, safe = with_failures.of(at((1.6, 1), (0.3, 1))).tolist()
    assert safe > risky + 1


def test_scores_against_costs():
    """What is known to be beaten in both promises nothing; a cheap code and a good one do."""
    promise = Promise(evidence(m=1), 1)
    codes = at((1, 1), (-2, 1), (2.5, -2))
    values = promise.of(torch.cat([codes, codes[:, :1] + 3], 1))
    assert values[0] > values[2] + 1
    assert values[1] > values[2] + 1
    cheaper = promise.of(torch.cat([codes[:1], torch.tensor([[1.0]])], 1))
    assert cheaper[0] > values[0]  # the same code at another exact cost: costs are read, not modeled


def test_costs_and_failures():
    promise = Promise(evidence(m=1, failed=lambda z: z[:, 0] > 0.4, n=30), 1)
    risky, safe = promise.of(torch.cat([at((1.6, 1), (0.3, 1)), torch.tensor([[3.0], [3.0]])], 1)).tolist()
    assert safe > risky
