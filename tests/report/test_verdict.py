import re

import numpy as np
import pytest

from bitsmith.errors import RunError
from bitsmith.report import verdict

BUDGET = "size=20kB"


def test_a_lead_within_the_noise(record):
    # 1.96 sqrt(2 * .91 * .09 / 10000) = .007932
    assert verdict(record().rows, BUDGET, test_images=10_000) == (
        "Inside size=20kB composite reaches 91.20 % against 90.80 % for uniform+fill: +0.40 points, within the noise "
        "of 10,000 test images (±0.79 points); one seed, indicative."
    )


def test_a_lead_beyond_the_noise(row):
    # p = .5: 1.96 sqrt(.5 / 100) = .13859
    rows = [row("uniform", "baseline", 0.4), row(test=0.6)]
    assert "+20.00 points, beyond the noise of 100 test images (±13.86 points)" in verdict(
        rows, BUDGET, test_images=100
    )


@pytest.mark.parametrize(
    ("test", "difference"), [(0.9, "-0.80 points"), (0.908, "0.00 points"), (0.90801, "0.00 points")]
)
def test_it_is_said_where_it_is_against_us(row, test, difference):
    rows = [row("uniform+fill", "baseline", 0.908), row(test=test)]
    said = verdict(rows, BUDGET)
    assert f"composite reaches {100 * test:.2f} % and does not beat uniform+fill with 90.80 %: {difference}" in said
    assert "sampling error unknown" in said


def test_only_baselines_inside_count_and_the_best_of_them(row):
    rows = [
        row("uniform 8", "baseline", 0.95, 80_000.0),
        row("random", "baseline", 0.87),
        row("uniform 2", "baseline", 0.88),
        row("float", "float", 0.99, 310_000.0),
        row("grid", "baseline", None),
        row(test=0.9),
    ]
    assert "against 88.00 % for uniform 2: +2.00" in verdict(rows, BUDGET)


def test_a_baseline_made_for_a_smaller_budget_counts_as_a_network_of_its_own(row):
    small = row("uniform+fill", "baseline", 0.7, 9_000.0, budget="size=10kB", meets={"size=10kB": True, BUDGET: True})
    large = row("uniform+fill", "baseline", 0.9)
    assert "against 90.00 %" in verdict([small, large, row(test=0.91)], BUDGET)
    small_found = row(test=0.72, size=9_500.0, budget="size=10kB", meets={"size=10kB": True, BUDGET: True})
    said = verdict([small, large, small_found], "size=10kB")
    assert said.startswith("Inside size=10kB composite reaches 72.00 % against 70.00 %")


@pytest.mark.parametrize(
    ("seeds", "ending"), [(1, "one seed, indicative."), (4, "4 seeds, indicative."), (5, "5 seeds.")]
)
def test_seeds_are_averaged_and_few_are_indicative(row, seeds, ending):
    rows = [row("uniform", "baseline", 0.80 + 0.01 * (s % 2), seed=s) for s in range(5)]
    rows += [row(test=0.90 + 0.02 * (s % 2), seed=s) for s in range(seeds)]
    found = np.array([0.90 + 0.02 * (s % 2) for s in range(seeds)])
    said = verdict(rows, BUDGET, test_images=1000)
    assert said.endswith(ending)
    assert f"reaches {100 * found.mean():.2f} % against 80.40 %" in said
    p = (found.mean() + 0.804) / 2
    base = np.array([0.80, 0.81, 0.80, 0.81, 0.80])
    spread = base.var(ddof=1) / 5 + (found.var(ddof=1) / seeds if seeds > 1 else 0)
    assert f"and of the seeds (±{196 * np.sqrt(2 * p * (1 - p) / 1000 + spread):.2f} points)" in said


def test_equal_networks_stay_within_the_noise_95_times_in_100(row):
    draws = np.random.default_rng(0).binomial(400, 0.85, size=(2000, 2)) / 400
    said = [
        verdict([row("uniform", "baseline", float(a)), row(test=float(b))], BUDGET, test_images=400) for a, b in draws
    ]
    share = np.mean(["within the noise" in text for text in said])
    assert 0.935 < share < 0.965  # 3 standard errors of 2000 draws


def test_a_network_outside_claims_nothing(row):
    rows = [row("uniform", "baseline", 0.8), row(test=0.99, size=20_001.0)]
    assert verdict(rows, BUDGET) == "composite misses size=20kB by 1 B of size (0.005 %): no claim."
    said = verdict([*rows, row(seed=1)], BUDGET)
    assert said == "composite misses size=20kB with 1 of 2 seeds by 1 B of size (0.005 %): no claim."
    worst = verdict([*rows, row(size=22_000.0, seed=1)], BUDGET)
    assert worst == "composite misses size=20kB with 2 of 2 seeds by up to 2 kB of size (10 %): no claim."


def test_several_budgets_must_hold_together(row):
    both = {BUDGET: True, "macs=12M": True}
    one = {BUDGET: True, "macs=12M": False}
    name = "size=20kB, macs=12M"
    rows = [row("a", "baseline", 0.9, meets=one), row("b", "baseline", 0.8, meets=both), row(budget=name, meets=both)]
    assert f"Inside {name} composite reaches 91.20 % against 80.00 % for b" in verdict(rows, name)


def test_every_found_network_gets_its_sentence(row):
    rows = [row("uniform", "baseline", 0.9), row(test=0.91), row("supernet", test=0.89)]
    said = verdict(rows, BUDGET)
    assert re.findall(r"(\w+) reaches", said) == ["composite", "supernet"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("uniform", "baseline", 0.8)],
            "Inside size=20kB nothing was searched; the best baseline is uniform with 80.00 %.",
        ),
        ([("uniform", "baseline", None)], "Inside size=20kB there is no network with a test result."),
        ([("composite", "found", None)], "Inside size=20kB composite has no test result: no claim."),
        (
            [("composite", "found", 0.9), ("uniform", "baseline", None)],
            "Inside size=20kB composite reaches 90.00 %; no tested baseline fits inside: no comparison.",
        ),
    ],
)
def test_missing_sides_are_said(row, rows, message):
    assert verdict([row(name, kind, test) for name, kind, test in rows], BUDGET) == message


def test_a_baseline_that_nobody_tried_is_not_one_that_does_not_fit(row):
    said = verdict([row(test=0.9)], BUDGET, tried=False)
    assert said == "Inside size=20kB composite reaches 90.00 %; no baseline was tried: no comparison."
    outside = row("uniform", "baseline", 0.9, 30_000.0)
    assert "no tested baseline fits inside" in verdict([row(test=0.9), outside], BUDGET, tried=False)


@pytest.mark.parametrize(("test", "words"), [(1.0, "all"), (0.0, "none")])
def test_no_noise_is_claimed_to_be_nothing(row, test, words):
    said = verdict([row("uniform", "baseline", test), row(test=test)], BUDGET, test_images=24)
    assert f"0.00 points, {words} of the 24 test images right on both sides; one seed" in said
    assert "±" not in said


def test_another_metric_gets_no_binomial_interval(row):
    rows = [row("uniform", "baseline", 0.8, metric="f1"), row(metric="f1")]
    words = verdict(rows, BUDGET, test_images=100)
    assert "composite reaches F1 91.20 % against 80.00 % for uniform" in words
    assert "sampling error of F1 not estimated" in words


def test_an_unknown_budget_is_an_error(record):
    with pytest.raises(RunError, match=r"'size=9kB'; the rows speak of \['size=20kB'\]"):
        verdict(record().rows, "size=9kB")
