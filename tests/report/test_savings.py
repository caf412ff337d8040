"""Costs at equal scores, where the truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from bitsmith.report import savings
from bitsmith.report.bootstrap import saving, seed_means
from bitsmith.report.compared import Contest, Member
from bitsmith.report.contests import make_scores
from bitsmith.report.savings import make_savings

COSTS = (10_000.0, 14_000.0, 20_000.0)


def accuracy(cost):
    """The truth: a straight line over the logarithm of the cost."""
    return 0.7 + 0.2 * np.log(cost / 10_000)


class Networks:
    """Networks that are right on each image with their true probability."""

    def __init__(self, seed=0, images=1000, seeds=5):
        self.rng, self.images, self.seeds = np.random.default_rng(seed), images, range(seeds)
        self.members, self.predictions = [], {}
        self.labels = np.zeros(images, dtype=int)
        self.ease = self.rng.random(images)  # the same images are hard for all

    def add(self, method, cost, right, limit, *, kind="baseline", spread=0.0, network=None, space="all"):
        contest = Contest(method=method, space=space, budget=limit)
        for seed in self.seeds:
            moved = right + spread * self.rng.normal()
            wrong = (0.5 * self.ease + 0.5 * self.rng.random(self.images)).argsort()[round(moved * self.images) :]
            predicted = self.labels.copy()
            predicted[wrong] = 1
            self.predictions[contest, seed] = predicted
            self.members.append(
                Member(
                    contest=contest, seed=seed, kind=kind, bits="w2 a8", network=network or f"{method}{seed}{limit}",
                    costs={"size": cost, "energy": 1e-9 * cost}, validation=right, test=float((predicted == 0).mean()),
                    source="onnx", epochs=1.0, search_epochs=0.0, seconds=1.0, folder=f"runs/{method}/{seed}",
                )
            )  # fmt: skip
        return self

    def line(self, method, costs, *, shift=1.0, kind="baseline", **rest):
        for limit, cost in zip(("size=12kB", "size=16kB", "size=24kB"), costs, strict=True):
            self.add(method, shift * cost, accuracy(cost), limit, kind=kind, **rest)
        return self

    def savings(self, draws=500):
        scores = make_scores(self.members, self.predictions, self.labels, metric="accuracy", classes=10, draws=draws)
        return make_savings(self.members, scores)


def test_by_hand():
    """A line over log cost, shifted; and where the ranges meet in part, the mean over that part alone."""
    costs = np.array([1.0, 2.0, 4.0])
    scores = np.array([0.5, 0.6, 0.7])
    saved, low, high = saving((0.8 * costs, scores), (costs, scores))
    assert float(saved) == pytest.approx(0.2, abs=1e-12)
    assert (low, high) == (0.5, 0.7)
    saved, low, high = saving((costs, scores + 0.1), (costs, scores))
    assert float(saved) == pytest.approx(1 - 0.5, abs=1e-12)  # a step of .1 is a factor of 2
    assert (low, high) == pytest.approx((0.6, 0.7))
    missed = saving((costs, scores + 0.5), (costs, scores))[0]
    assert np.isnan(missed)


def test_a_mean_of_ratios_by_integration():
    """Lines of different slope: 1 - exp of the difference of two lines, integrated in closed form."""
    ours = np.array([1.0, 2.0]), np.array([0.5, 0.7])
    theirs = np.array([1.0, 4.0]), np.array([0.5, 0.7])
    # log ratio falls from 0 to -log 2 over the range: the mean of its exponential is (1 - 1/2) / log 2.
    assert float(saving(ours, theirs)[0]) == pytest.approx(1 - 0.5 / np.log(2), abs=2e-3)


def test_what_costs_more_and_scores_less_does_not_count():
    costs, scores = np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.6, 0.7])
    worse = np.array([1.0, 1.5, 2.0, 4.0]), np.array([0.5, 0.4, 0.6, 0.7])
    by_hand = saving((np.array([1.0, 1.5, 2.0, 4.0]), np.array([0.5, 0.5, 0.6, 0.7])), (costs, scores))
    assert saving(worse, (costs, scores))[0] == by_hand[0] < 0.05
    # A level part is left where it begins: at .5 both cost 1.
    flat = saving((np.array([1.0, 3.0]), np.array([0.5, 0.5])), (np.array([1.0, 3.0]), np.array([0.5, 0.5])))
    assert flat[0] == 0


def test_the_order_of_networks_does_not_matter():
    rng = np.random.default_rng(0)
    costs, scores = rng.random((7, 4)) + 0.5, rng.random((7, 4))
    other = rng.random((7, 3)) + 0.5, rng.random((7, 3))
    turned = [2, 0, 3, 1]
    np.testing.assert_array_equal(
        saving((costs, scores), other)[0], saving((costs[:, turned], scores[:, turned]), other)[0]
    )


def test_of_equal_costs_the_order_does_not_matter_either():
    """The better of two networks of one cost counts, whichever is given first."""
    other = np.array([1.2, 2.4]), np.array([0.5, 0.7])
    one = saving((np.array([1.0, 1.0, 2.0]), np.array([0.5, 0.6, 0.7])), other)
    two = saving((np.array([1.0, 1.0, 2.0]), np.array([0.6, 0.5, 0.7])), other)
    assert [float(v) for v in one] == [float(v) for v in two]
    alone = saving((np.array([1.0, 2.0]), np.array([0.6, 0.7])), other)
    assert [float(v) for v in two] == [float(v) for v in alone]


@pytest.mark.parametrize(("gap", "measured"), [(0.001, False), (-0.002, True)])
def test_where_measured_networks_only_just_meet(gap, measured):
    """One method's best is the other's worst, but for 1 or 2 images of 1,000: some draws meet, some don't."""
    field = Networks(seeds=1)
    for limit, cost, right in (("size=12kB", 1e4, 0.70), ("size=24kB", 2e4, 0.80)):
        field.add("uniform", cost, right, limit)
        field.add("supernet", cost, right + 0.1 + gap, limit, kind="found")
    contest = {(c.method, c.budget): c for c, _ in field.predictions}
    best, worst = contest["uniform", "size=24kB"], contest["supernet", "size=12kB"]
    assert (field.predictions[best, 0] == 0).sum() == 800
    assert (field.predictions[worst, 0] == 0).sum() == 800 + round(1000 * gap)
    text = savings._words(
        "a", "b", "size", "not shown", 0.1, (-0.004, 0.05), (0.5, 0.6), "accuracy", 1, savings._drawn(0.736, measured)
    )
    assert "takes 10 % [0, 5] less" in text  # not -0
    (one,) = field.savings()
    assert 0.5 < one.meets < 1
    said = "the interval is of the" if measured else "the median of the"
    assert f"({said} {int(100 * one.meets)} % of the draws in which both reach some score" in one.text
    assert ("as measured they reach none" in one.text) is not measured


def test_a_planted_saving_is_found():
    field = Networks().line("uniform", COSTS, spread=0.003)
    found = field.line("supernet", COSTS, shift=0.8, kind="found", spread=0.003).savings()
    (one,) = found
    assert (one.ours, one.theirs, one.cost, one.outcome) == ("supernet", "uniform", "size", "shown")
    assert one.value == pytest.approx(0.2, abs=0.06)
    assert one.low < 0.2 < one.high
    assert one.meets == 1
    assert one.text == (
        f"supernet takes {100 * one.value:.0f} % [{100 * one.low:.0f}, {100 * one.high:.0f}] less storage than uniform "
        f"at equal accuracy, {100 * one.scores[0]:.1f} to {100 * one.scores[1]:.1f} %: shown (5 seeds)."
    )
    turned = [replace(m, kind="baseline" if m.kind == "found" else "found") for m in field.members]
    field.members = turned
    (other,) = field.savings()
    assert (other.ours, other.outcome) == ("uniform", "against")
    assert other.value == pytest.approx(1 - 1 / (1 - one.value), abs=0.01)
    assert f"takes {-100 * other.value:.0f} % [{-100 * other.high:.0f}, {-100 * other.low:.0f}] more" in other.text


@pytest.mark.parametrize("truth", [0.0, 0.2])
def test_intervals_hold_the_truth_as_often_as_they_say(truth):
    """In at least 17 of 20 comparisons, with seeds that move accuracy by a point."""
    held = 0
    for seed in range(20):
        field = Networks(seed, images=400).line("uniform", COSTS, spread=0.01)
        (one,) = field.line("supernet", COSTS, shift=1 - truth, kind="found", spread=0.01).savings(draws=200)
        held += one.low <= truth <= one.high
    assert held >= 17


def test_equal_methods():
    field = Networks().line("uniform", COSTS, spread=0.01)
    (tie,) = field.line("supernet", COSTS, kind="found", spread=0.01).savings()
    assert tie.outcome == "not shown"
    assert tie.low < 0 < tie.high
    same = Networks()
    for name, kind in (("uniform", "baseline"), ("supernet", "found")):
        same.line(name, COSTS, kind=kind, network="n")
    for contest, seed in list(same.predictions):
        same.predictions[contest, seed] = same.predictions[replace(contest, method="uniform"), seed]
    tests = {(m.contest.budget, m.seed): m.test for m in same.members if m.contest.method == "uniform"}
    same.members = [replace(m, test=tests[m.contest.budget, m.seed]) for m in same.members]
    (one,) = same.savings()
    assert (one.value, one.low, one.high, one.outcome) == (0, 0, 0, "identical")
    assert one.text == "supernet and uniform are the same networks at every budget on size (5 seeds)."


def test_where_no_score_is_reached_by_both():
    field = Networks().line("uniform", COSTS)
    for limit, cost, right in (("size=12kB", 1e4, 0.95), ("size=24kB", 2e4, 0.98)):
        field.add("supernet", cost, right, limit, kind="found")
    (one,) = field.savings()
    assert (one.outcome, one.value, one.low, one.scores) == ("not comparable", None, None, None)
    assert one.meets < 0.5
    assert "supernet and uniform are not comparable in storage at equal accuracy" in one.text
    share = f"in only {int(100 * one.meets)} % of the draws" if one.meets else "there is none that both reach"
    assert share in one.text


def test_who_is_compared():
    """Methods with two budgets inside; searched ones first; spaces are named; one seed says so."""
    field = Networks(seeds=1).line("uniform", COSTS).line("random", COSTS, space="few")
    field.line("supernet", COSTS, kind="found", space="few").add("grid", 1e4, 0.7, "size=12kB")
    pairs = [(s.ours, s.theirs) for s in field.savings()]
    assert pairs == [
        ("supernet in few", "uniform in all"), ("supernet in few", "random in few"),
        ("uniform in all", "random in few"),
    ]  # fmt: skip
    assert all("one seed, indicative" in s.text for s in field.savings())
    outside = [replace(m, costs={"size": 1e6}) if m.contest.method == "random" else m for m in field.members]
    field.members = outside
    assert [(s.ours, s.theirs) for s in field.savings()] == [("supernet in few", "uniform in all")]


def test_two_costs_and_a_metric_without_intervals():
    field = Networks(seeds=2)
    for name, shift, kind in (("uniform", 1.0, "baseline"), ("composite", 0.5, "found")):
        for limit, cost in (("size=30kB, energy=12uJ", 1e4), ("size=30kB, energy=24uJ", 2e4)):
            field.add(name, shift * cost, accuracy(cost), limit, kind=kind)
    scores = make_scores(field.members, field.predictions, field.labels, metric="auc", classes=10)
    (one,) = make_savings(field.members, scores)
    assert (one.cost, one.outcome, one.low) == ("energy", "no interval", None)
    assert one.value == pytest.approx(0.5, abs=0.02)
    assert one.text.startswith("composite takes 50 % less energy than uniform at equal AUC, 7")


def test_seed_means_pair_what_they_are_asked_for():
    values = np.random.default_rng(0).normal(size=(201, 3))
    np.testing.assert_allclose(seed_means(values) + 1, seed_means(values + 1))
    assert seed_means(values)[0] == values[0].mean()
