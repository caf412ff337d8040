"""From tested networks to verdicts in words, on results whose truth is known."""

import numpy as np
import pytest

from bitsmith.errors import RunError
from bitsmith.report.compare_verdicts import make_verdicts, summarize_verdicts
from bitsmith.report.compared import Contest, Member
from bitsmith.report.contests import make_cells, make_scores, make_volumes

IMAGES = 1000
BUDGET = "size=20kB"


class Field:
    """Networks with so many right images each; the first `right` are the right ones unless drawn at random."""

    def __init__(self, metric="accuracy"):
        self.members, self.predictions, self.metric = [], {}, metric
        self.labels = np.arange(IMAGES) % 10

    def add(self, method, rights, *, kind="baseline", validations=None, budget=BUDGET, space="all", seeds=None, **rest):
        for s, right in enumerate(rights):
            seed = seeds[s] if seeds else s
            contest = Contest(method=method, space=space, budget=budget)
            order = np.random.default_rng([*method.encode(), seed]).permutation(IMAGES)
            wrong = order[right:]
            predicted = self.labels.copy()
            predicted[wrong] = (predicted[wrong] + 1) % 10
            self.predictions[contest, seed] = predicted
            fields = {
                "bits": "w2 a8", "network": f"{method}{seed}{budget}", "costs": {"size": 19_000.0}, "source": "onnx",
                "epochs": 12.0, "search_epochs": 0.0, "seconds": 1800.0, "folder": f"runs/{method}/seed{seed}",
            }  # fmt: skip
            self.members.append(
                Member(
                    contest=contest,
                    seed=seed,
                    kind=kind,
                    validation=(validations or [r / IMAGES for r in rights])[s],
                    test=right / IMAGES,
                    **(fields | rest),
                )
            )
        return self

    def scores(self):
        return make_scores(self.members, self.predictions, self.labels, metric=self.metric, classes=10, draws=1000)

    def verdicts(self):
        return make_verdicts(self.members, self.scores())


def test_a_planted_difference_is_shown():
    verdict = Field().add("uniform", [700] * 5).add("composite", [800] * 5, kind="found").verdicts()[0]
    assert verdict.outcome == "shown"
    assert verdict.gain == pytest.approx(0.1)
    assert 0 < verdict.low < 0.1 < verdict.high
    assert verdict.text == (
        f"At size=20kB composite gains 10.00 [{100 * verdict.low:.2f}, {100 * verdict.high:.2f}] points over uniform: "
        "shown (5 seeds)."
    )


def test_what_is_against_us_is_said():
    field = Field().add("uniform", [800] * 3).add("composite", [700] * 3, kind="found")
    verdict = field.verdicts()[0]
    assert verdict.outcome == "against"
    assert verdict.high < 0
    assert "loses 10.00 [" in verdict.text
    assert "the other is better, shown (3 seeds, indicative)" in verdict.text
    # The interval of a loss is printed as one.
    assert f"[{-100 * verdict.high:.2f}, {-100 * verdict.low:.2f}]" in verdict.text
    assert "the other is better in 1" in summarize_verdicts(field.verdicts())


def test_a_tie_is_not_shown():
    verdict = Field().add("uniform", [750, 760]).add("composite", [755, 757], kind="found").verdicts()[0]
    assert verdict.outcome == "not shown"
    assert verdict.low < 0 < verdict.high
    assert ": not shown (2 seeds, indicative)." in verdict.text


def test_the_baseline_is_chosen_by_validation():
    field = Field().add("uniform", [900] * 3, validations=[0.7] * 3).add("random", [600] * 3, validations=[0.8] * 3)
    assert field.add("composite", [750] * 3, kind="found").verdicts()[0].theirs.method == "random"


def test_a_baseline_of_fewer_seeds_is_not_chosen_by_its_luck():
    field = Field().add("random", [900]).add("uniform", [700] * 3).add("composite", [750] * 3, kind="found")
    verdict = field.verdicts()[0]
    assert verdict.theirs.method == "uniform"
    assert verdict.seeds == [0, 1, 2]


def test_the_best_of_the_others_is_a_rival_too_where_it_was_searched():
    field = Field().add("uniform", [700] * 3).add("composite", [720] * 3, kind="found")
    verdicts = field.add("supernet", [760] * 3, kind="found", space="mobile").verdicts()
    assert [(v.ours.method, v.theirs.method) for v in verdicts] == [
        ("composite", "uniform"), ("composite", "supernet"), ("supernet", "uniform"), ("supernet", "composite"),
    ]  # fmt: skip
    assert "composite in all loses 4.00" in verdicts[1].text
    assert "supernet in mobile" in verdicts[1].text
    # One comparison of the two, seen from either side.
    assert [v.outcome for v in verdicts] == ["not shown", "against", "shown", "shown"]
    assert summarize_verdicts(verdicts).startswith(
        "3 comparisons: a gain is shown in 1 of 3, the other is better in 1."
    )
    both = field.add("composite", [760] * 3, kind="found", budget="size=30kB")
    both = both.add("supernet", [720] * 3, kind="found", budget="size=30kB").verdicts()
    assert len(both) == 6
    assert summarize_verdicts(both).startswith("4 comparisons: ")


def test_against_the_mean_of_several_random_draws():
    """Of its own space and with every draw's seed; the best draw is a baseline like the others."""
    field = Field().add("random", [700, 710, 900], space="mobile").add("random (2)", [740, 730], space="mobile")
    field.add("random", [100] * 3, space="bits").add("supernet", [750] * 3, kind="found", space="mobile")
    best, mean, _ = field.verdicts()
    assert (best.theirs.method, best.theirs.space) == ("random", "mobile")
    assert mean.theirs.method == "mean of 2 random"
    assert mean.seeds == [0, 1]
    assert mean.gain == pytest.approx((750 - 720) / IMAGES)
    assert mean.low < mean.gain < mean.high
    # One draw alone is a baseline, no mean and no choice.
    alone = Field().add("random", [700] * 3).add("supernet", [750] * 3, kind="found")
    assert [v.theirs.method for v in alone.verdicts()] == ["random"]


def test_against_the_best_random_draw_of_each_seed_by_validation():
    """Random search: its choice is by validation, and here the test would have chosen otherwise."""
    field = Field().add("random", [700, 900], validations=[0.8, 0.6], space="mobile", network="same")
    field.add("random (2)", [740, 730], validations=[0.7, 0.7], space="mobile")
    field.add("supernet", [750] * 2, kind="found", space="mobile", network="same")
    searched = field.verdicts()[-1]
    assert searched.theirs.method == "random search (best of 2)"
    assert searched.gain == pytest.approx((750 - (700 + 730) / 2) / IMAGES)
    assert (searched.seeds, searched.same) == ([0, 1], [0])


def test_networks_outside_their_budget_neither_win_nor_lose():
    """By any seed; what is beyond by rounding alone is inside."""
    field = Field().add("uniform", [700] * 3).add("random", [990] * 3, costs={"size": 20_001.0})
    field.add("composite-as-published", [900] * 3, kind="found", costs={"size": 22_400.0})
    field.add("composite", [750] * 3, kind="found", costs={"size": 20_000 * (1 + 1e-12)})
    assert [(v.ours.method, v.theirs.method) for v in field.verdicts()] == [("composite", "uniform")]
    assert [member.outside for member in field.members[6:10:3]] == [{"size": pytest.approx(0.12)}, {}]
    one = Field().add("uniform", [700] * 2).add("composite", [750], kind="found", costs={"size": 20_001.0})
    assert one.add("composite", [750], kind="found", seeds=[1]).verdicts() == []
    several = Field().add("uniform", [700], budget="energy=5uJ, size=20kB", costs={"size": 19e3, "energy": 6e-6})
    assert several.members[0].outside == {"energy": pytest.approx(0.2)}


def test_only_common_seeds_are_paired():
    field = Field().add("uniform", [700, 710], seeds=[1, 2]).add("composite", [750] * 3, kind="found")
    verdict = field.verdicts()[0]
    assert verdict.seeds == [1, 2]
    assert verdict.gain == pytest.approx((750 - 705) / IMAGES)
    assert Field().add("uniform", [700], seeds=[5]).add("composite", [750], kind="found").verdicts() == []


def test_the_same_network_is_called_so():
    field = Field().add("uniform", [700] * 3, network="x").add("composite", [700] * 3, kind="found", network="x")
    of = {member.contest.method: member.contest for member in field.members}
    for seed in range(3):
        field.predictions[of["composite"], seed] = field.predictions[of["uniform"], seed]
    verdict = field.verdicts()[0]
    assert verdict.outcome == "identical"
    assert (
        verdict.text == "At size=20kB composite is the same network as uniform (3 seeds): there is nothing to compare."
    )
    assert "1 found the other's own network" in summarize_verdicts([verdict])


def test_the_same_network_trained_otherwise_is_no_gain_of_the_search_but_its_scores_are_said():
    field = Field().add("uniform", [750] * 3, network="x").add("composite", [700] * 3, kind="found", network="x")
    verdict = field.verdicts()[0]
    assert verdict.outcome == "identical"
    assert verdict.text == (
        "At size=20kB composite is the same network as uniform, only trained from other weights: it scores 5.00 "
        f"[{-100 * verdict.high:.2f}, {-100 * verdict.low:.2f}] points less (3 seeds, indicative)."
    )


def test_the_same_network_for_some_seeds_is_said():
    field = Field().add("uniform", [700] * 2).add("composite", [750] * 2, kind="found")
    field.members[0] = field.members[0].__class__(
        **{name: getattr(field.members[0], name) for name in field.members[0].__slots__}
        | {"network": "composite0size=20kB"}
    )
    verdict = field.verdicts()[0]
    assert verdict.same == [0]
    assert "; the same network for 1 of them" in verdict.text


def test_budgets_are_judged_apart_and_sensitivity_is_both():
    field = Field()
    for budget, most in ((BUDGET, 800), ("size=30kB", 900)):
        field.add("uniform", [700] * 2, budget=budget).add("sensitivity", [750] * 2, budget=budget)
        field.add("composite", [most] * 2, budget=budget, kind="found")
    said = [(v.ours.method, v.ours.budget, v.theirs.method) for v in field.verdicts()]
    assert sorted(said) == [
        ("composite", BUDGET, "sensitivity"),
        ("composite", "size=30kB", "sensitivity"),
        ("sensitivity", BUDGET, "uniform"),
        ("sensitivity", "size=30kB", "uniform"),
    ]
    assert "of 4 between equals about 0.2 would be shown one way or the other" in summarize_verdicts(field.verdicts())


def test_spaces_are_named_where_there_are_several():
    field = Field().add("uniform", [700] * 2, space="wide").add("composite", [750] * 2, kind="found", space="few")
    assert "composite in few gains 5.00" in field.verdicts()[0].text
    assert "over uniform in wide" in field.verdicts()[0].text


def test_a_metric_of_more_than_classes_has_no_interval():
    field = Field("auc").add("uniform", [700] * 3).add("composite", [800] * 3, kind="found")
    verdict = field.verdicts()[0]
    assert (verdict.outcome, verdict.low, verdict.high) == ("no interval", None, None)
    assert "composite gains 10.00 points over uniform (3 seeds, indicative)" in verdict.text
    assert "No interval: AUC needs more than predicted classes, so nothing is shown." in verdict.text
    assert all(cell.low is None for cell in make_cells(field.members, field.scores()))
    assert "interval" not in summarize_verdicts([verdict, verdict])


def test_cells_are_means_over_seeds():
    field = Field().add("uniform", [700, 720, 740])
    cell = make_cells(field.members, field.scores())[0]
    assert (cell.test, cell.seeds, cell.hours) == (pytest.approx(0.72), [0, 1, 2], pytest.approx(1.5))
    assert cell.low < 0.72 < cell.high


def test_no_interval_reaches_beyond_what_a_share_can_be():
    field = Field().add("uniform", [600, 990]).add("uniform", [600, 999], budget="size=30kB")
    cells = make_cells(field.members, field.scores())
    assert [cell.high for cell in cells] == [1.0, 1.0]
    assert make_volumes(field.members, field.scores())[0].low >= 0


def test_predictions_must_give_the_score_of_the_report():
    field = Field().add("uniform", [700])
    field.predictions[field.members[0].contest, 0][:3] += 1
    with pytest.raises(RunError, match=r"runs/uniform/seed0: the predictions kept there score"):
        field.scores()


def test_volumes_need_two_budgets_and_state_their_reference():
    field = Field().add("uniform", [500] * 2).add("random", [600] * 2)
    assert make_volumes(field.members, field.scores()) == []
    field.add("uniform", [800] * 2, budget="size=10kB", costs={"size": 9_000.0})
    volumes = make_volumes(field.members, field.scores())
    assert [volume.method for volume in volumes] == ["uniform"]
    # 9 to 22 kB at 80 %, which dominates the larger one, above 10 %.
    assert volumes[0].reference_cost == pytest.approx(22_000)
    assert volumes[0].reference_score == pytest.approx(0.1)
    assert volumes[0].value == pytest.approx((22 - 9) / 22 * 0.7 / 0.9)
    assert volumes[0].low < volumes[0].value < volumes[0].high


def test_nothing_searched_is_said():
    assert summarize_verdicts(Field().add("uniform", [700]).verdicts()).startswith("Nothing was searched")
