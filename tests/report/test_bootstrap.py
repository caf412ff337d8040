"""The bootstrap where the truth is known: equal methods, planted differences, closed forms, brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from bitsmith.report.bootstrap import COUNTED, hypervolume, interval, resample
from bitsmith.train import METRICS


def differences(a, b, labels, classes=2, draws=2000, seed=0):
    """(1 + draws, seeds) of two lists of predictions, one per seed."""
    networks = {("a", s): p for s, p in enumerate(a)} | {("b", s): p for s, p in enumerate(b)}
    drawn = resample(networks, labels, classes=classes, draws=draws, seed=seed)
    return np.stack([drawn["a", s] - drawn["b", s] for s in range(len(a))], axis=1)


def simulated(rng, seeds, images, *, gain=0.0, seed_noise=0.0):
    """Two methods on images of different difficulty; networks of a seed and method share a luck of their own."""
    difficulty = rng.normal(1.2, 1.0, images)

    def networks(shift):
        return [
            (difficulty + shift + rng.normal(0, 0.5, images) + rng.normal(0, seed_noise) > 0).astype(int)
            for _ in range(seeds)
        ]

    return networks(gain), networks(0.0), np.ones(images, int)


def share_shown(repetitions, seeds, images, **settings):
    rng, shown = np.random.default_rng(0), 0
    for repetition in range(repetitions):
        a, b, labels = simulated(rng, seeds, images, **settings)
        found = interval(differences(a, b, labels, draws=600, seed=repetition), seed=repetition)
        shown += not found.low <= 0 <= found.high
    return shown / repetitions


@pytest.mark.parametrize("seeds", [1, 3, 10])
def test_identical_predictions_differ_by_exactly_nothing(seeds):
    rng = np.random.default_rng(seeds)
    a = [rng.integers(0, 10, 500) for _ in range(seeds)]
    found = interval(differences(a, a, rng.integers(0, 10, 500), classes=10))
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_a_planted_difference_is_shown_and_its_opposite_is_against():
    a, b, labels = simulated(np.random.default_rng(1), 3, 2000, gain=0.4, seed_noise=0.02)
    ours = interval(differences(a, b, labels))
    assert 0 < ours.low < ours.value < ours.high
    theirs = interval(differences(b, a, labels))
    assert (theirs.value, theirs.low, theirs.high) == pytest.approx((-ours.value, -ours.high, -ours.low))


def test_a_noisy_tie_is_not_shown_in_95_of_100(full):
    """One seed, where the test images are all the noise: 5 % within 3 standard errors of so many repetitions."""
    repetitions = 1500 if full else 200
    share = share_shown(repetitions, 1, 400)
    assert abs(share - 0.05) < 3 * np.sqrt(0.05 * 0.95 / repetitions)


@pytest.mark.parametrize(("seeds", "most"), [(3, 0.13), (5, 0.09), (10, 0.08)])
def test_a_tie_of_noisy_seeds(full, seeds, most):
    """Where seeds are the main noise (one moves all by 2 points), few of them show a difference too often."""
    if not full:
        pytest.skip("simulates for a minute")
    share = share_shown(1000, seeds, 1000, seed_noise=0.1)
    assert 0.02 < share < most


def test_quiet_seeds_make_the_interval_wide_rather_than_narrow(full):
    """What is noise of seed and image together is counted by both draws."""
    assert share_shown(600 if full else 60, 3, 400) < 0.05


@pytest.mark.parametrize(("wins", "losses"), [(40, 20), (5, 5), (100, 0)])
def test_one_seed_has_the_interval_of_the_paired_binomial(wins, losses):
    """n (a - b) is a sum of n draws of +1, -1, 0: its exact distribution from the multinomial, its deviation closed."""
    n = 1000
    a, b = np.zeros(n, int), np.zeros(n, int)
    a[:wins], b[wins : wins + losses] = 1, 1
    values = differences([a], [b], np.ones(n, int), draws=20_000)
    p, q = wins / n, losses / n
    assert values[1:, 0].std() == pytest.approx(np.sqrt((p + q - (p - q) ** 2) / n), rel=0.03)
    found = interval(values)
    changed = np.arange(0, n + 1)
    weights = binom.pmf(changed, n, p + q)
    at = np.arange(-n, n + 1) / n

    def distribution(x):  # P(a - b <= x): of k changed images, (k + n x) / 2 at most are wins
        return (weights * binom.cdf(np.floor((changed + round(n * x)) / 2), changed, p / (p + q))).sum()

    known = at[(at > -0.2) & (at < 0.2)]
    cdf = np.array([distribution(x) for x in known])
    low, high = known[np.searchsorted(cdf, 0.025)], known[np.searchsorted(cdf, 0.975)]
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.0021)


def test_the_chance_of_the_test_set_does_not_average_out_over_seeds():
    """Equal networks of nine seeds know no more about the images than one."""
    right = (np.arange(400) < 300).astype(int)
    one = resample({0: right}, np.ones(400, int), classes=2)[0][:, None]
    nine = np.repeat(one, 9, axis=1)
    assert interval(nine).high - interval(nine).low == pytest.approx(interval(one).high - interval(one).low)
    assert interval(one).high - interval(one).low == pytest.approx(2 * 1.96 * np.sqrt(0.75 * 0.25 / 400), rel=0.06)


def test_seeds_vary_as_they_should():
    """Without noise of images, the deviation of t is that of a mean of so many seeds, estimated without bias."""
    seeds = np.array([0.1, 0.4, 0.2, 0.9])
    values = np.repeat(seeds[None], 40_001, axis=0)
    found = interval(values)
    assert found.value == pytest.approx(seeds.mean())
    # 4 draws of 4 values: the whole distribution by brute force.
    every = np.array(np.meshgrid(*[seeds] * 4)).reshape(4, -1).mean(0)
    t = seeds.mean() + np.sqrt(4 / 3) * (every - seeds.mean())
    assert t.std() == pytest.approx(seeds.std(ddof=1) / 2)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(t, [0.025, 0.975])), abs=0.03)


def test_it_is_deterministic_and_the_first_is_the_score_itself():
    rng = np.random.default_rng(0)
    predicted, labels = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    one, two, other = (resample({0: predicted}, labels, classes=3, draws=50, seed=s)[0] for s in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert one[0] == other[0] == (predicted == labels).mean()


@given(
    classes=st.integers(2, 4),
    pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30),
    metric=st.sampled_from(sorted(COUNTED)),
)
def test_counted_metrics_are_those_of_the_task(classes, pairs, metric):
    """scikit-learn on one-hot outputs."""
    predicted, labels = (np.array(side) % classes for side in zip(*pairs, strict=True))
    mine = resample({0: predicted}, labels, metric=metric, classes=classes, draws=1)[0][0]
    logits = torch.eye(classes)[torch.from_numpy(predicted)]
    assert mine == pytest.approx(METRICS[metric](logits, torch.from_numpy(labels)))


def test_the_positive_class_can_be_the_first():
    predicted, labels = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    scores = [resample({0: predicted}, labels, metric="f1", classes=2, positive=p, draws=1)[0][0] for p in (0, 1)]
    assert scores == pytest.approx([2 / 3, 0.8])


def test_draws_in_blocks_are_whole_draws():
    from bitsmith.report import bootstrap

    blocks = list(bootstrap._weights(7, 10, 0))
    assert np.concatenate(blocks).shape == (11, 7)
    assert set(np.concatenate(blocks).sum(1)) == {7}


@given(points=st.lists(st.tuples(st.integers(0, 14), st.integers(0, 12)), min_size=1, max_size=6))
def test_the_hypervolume_counts_dominated_cells(points):
    """Brute force over unit cells of cost 0..10 and score 2..12."""
    costs, scores = np.array(points, float).T
    cells = sum(
        any(c <= x and s >= y + 1 for c, s in points) for x in range(10) for y in range(2, 12)
    )  # fmt: skip
    assert hypervolume(costs, scores, cost=10.0, score=2.0) == pytest.approx(cells)
    stacked = hypervolume(costs, np.stack([scores, scores + 1]), cost=10.0, score=2.0)
    assert stacked[0] == pytest.approx(cells)
    assert stacked[1] >= stacked[0]
