"""compare.json and compare.html: back unchanged, readable in a browser, text stays text."""

import json
import shutil
from dataclasses import replace

import pytest
from hostile import MARK, PAYLOADS
from playwright.sync_api import sync_playwright

from bitsmith.errors import RunError
from bitsmith.report.compare_figure import on_merged_front
from bitsmith.report.compare_page import render_compared, write_compared
from bitsmith.report.compared import (
    Cell,
    Compared,
    CompareVerdict,
    Contest,
    Member,
    Missing,
    Saving,
    Volume,
    read_compared,
)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def make_compared(text="composite", **changes) -> Compared:
    members, cells = [], []
    for budget, costs in (("size=10kB", 9_500.0), ("size=20kB", 19_800.0)):
        for name, kind, test in ((text, "found", 0.85), ("uniform", "baseline", 0.84)):
            contest = Contest(method=name, space="all", budget=budget)
            test += costs / 1e6
            members += [
                Member(
                    contest=contest, seed=seed, kind=kind, bits="w1-8 a8", network="0" * 64, costs={"size": costs},
                    validation=0.86, test=test, source="onnx", epochs=12.0, search_epochs=4.0, seconds=1000.0,
                    folder=f"runs/all/{kind}/seed{seed}",
                )
                for seed in (0, 1)
            ]  # fmt: skip
            cells.append(
                Cell(
                    contest=contest, kind=kind, seeds=[0, 1], bits=["w1-8 a8"], test=test, low=test - 0.01,
                    high=test + 0.01, validation=0.86, costs={"size": costs}, epochs=12.0, search_epochs=4.0, hours=0.6,
                )
            )  # fmt: skip
    ours, theirs = cells[0].contest, cells[1].contest
    compared = Compared(
        title=text, created="2026-11-22T05:00:00+00:00", summary=f"{text}: shown in 1 of 1.", metric="accuracy",
        classes=10, test_images=10_000, draws=4000, epochs=12.0, float_epochs=10, float_test={"0": 0.87, "1": 0.88},
        hours=3.5, members=members, cells=cells,
        verdicts=[
            CompareVerdict(
                ours=ours, theirs=theirs, outcome="shown", gain=0.01, low=0.002, high=0.018, seeds=[0, 1], same=[],
                text=f"At size=10kB {text} gains 1.00 [0.20, 1.80] points over uniform: shown (2 seeds, indicative).",
            )
        ],
        volumes=[
            Volume(
                method=text, space="all", cost="size", reference_cost=22_000.0, reference_score=0.1, value=0.4, low=0.3,
                high=0.41, seeds=[0, 1],
            )
        ],
        savings=[
            Saving(
                ours=text, theirs="uniform", cost="size", outcome="shown", value=0.27, low=0.12, high=0.4,
                scores=(0.845, 0.86), meets=1.0, seeds=[0, 1],
                text=f"{text} takes 27 % [12, 40] less storage than uniform at equal accuracy: shown (2 seeds).",
            )
        ],
        left_out=[Missing(method="random", space="all", budget="size=10kB", reason="nothing fits")],
        failed=[Missing(method=text, space="all", budget="", reason="failed: out of memory", folder="runs/x")],
        notes=[text], facts={"model": text, "classes": 10}, environment={"torch": "2"}, command="bitsmith compare",
    )  # fmt: skip
    return replace(compared, **changes)


def test_it_comes_back_unchanged(tmp_path):
    compared = make_compared()
    page = write_compared(compared, tmp_path)
    assert read_compared(tmp_path) == read_compared(page.with_suffix(".json")) == compared
    nothing = make_compared(members=[], cells=[], verdicts=[], volumes=[], savings=[])
    write_compared(nothing, tmp_path)
    assert read_compared(tmp_path) == nothing


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schema", 2, "comparison schema 2; this version of bitsmith reads 1"),
        ("created", "yesterday", "created"),
        ("extra", 1, "extra"),
        ("cells", [{}], r"cells\.0\.contest"),
        ("hours", -1, "hours"),
    ],
)
def test_damage_is_named(tmp_path, field, value, message):
    write_compared(make_compared(), tmp_path)
    file = tmp_path / "compare.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(RunError, match=message):
        read_compared(tmp_path)


def test_records_from_before_savings_were_told_are_read(tmp_path):
    write_compared(make_compared(), tmp_path)
    file = tmp_path / "compare.json"
    values = json.loads(file.read_text())
    del values["savings"]
    file.write_text(json.dumps(values))
    assert read_compared(tmp_path) == make_compared(savings=[])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000, b"\xff"])
def test_what_is_no_comparison_is_refused(tmp_path, content):
    (tmp_path / "compare.json").write_bytes(content)
    with pytest.raises(RunError, match=r"compare\.json"):
        read_compared(tmp_path)


def test_a_careless_caller_is_told_where(tmp_path):
    with pytest.raises(RunError, match="hours"):
        write_compared(make_compared(hours=float("nan")), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_front_is_of_all_methods():
    cells = make_compared().cells
    assert on_merged_front(cells, "size") == [True, False, True, False]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


def visit(browser, compared, folder, width=900):
    page = browser.new_context(viewport={"width": width, "height": 900}, offline=True).new_page()
    heard = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.goto(write_compared(compared, folder).as_uri(), timeout=120_000)
    page.locator("figure[data-drawn] .main-svg").first.wait_for()
    assert heard == []
    return page


@pytest.mark.parametrize("width", [400, 1000])
def test_the_page_in_a_browser(browser, tmp_path, width):
    page = visit(browser, make_compared(), tmp_path, width)
    text = page.locator("body").inner_text()
    for words in (
        "At size=10kB composite gains 1.00 [0.20, 1.80] points over uniform: shown (2 seeds, indicative).",
        "composite takes 27 % [12, 40] less storage than uniform", "84.5 to 86.0",
        "[84.95, 86.95]", "10 % of equal methods differ",
        "nothing fits", "failed: out of memory", "22 kB, accuracy 10.00 %", "12 epochs",
    ):  # fmt: skip
        assert words in text
    assert page.locator(".errorbar").count() == 4
    assert page.locator("a").first.get_attribute("href") == "runs/all/found/seed0/report.html"
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_spaces_are_named_in_every_table_where_there_are_several():
    compared = make_compared()
    cells = [replace(compared.cells[0], contest=replace(compared.cells[0].contest, space="few")), *compared.cells[1:]]
    verdict = replace(compared.verdicts[0], ours=cells[0].contest)
    page = render_compared(replace(compared, cells=cells, verdicts=[verdict]))
    assert '<th scope="row">composite in few</th><td>uniform in all</td>' in page
    assert '<th scope="row">random in all</th>' in page


def test_who_is_outside_the_budget_is_marked():
    compared = make_compared()
    assert "outside the budget" not in render_compared(compared)
    members = [replace(compared.members[0], costs={"size": 11_000.0}), *compared.members[1:]]
    page = render_compared(replace(compared, members=members))
    assert page.count("outside the budget</span>") == 1
    assert '<th scope="row">composite <span class="flag">outside the budget</span>' in page
    assert '<th scope="col">against</th>' in page


def test_without_intervals_no_bootstrap_is_claimed():
    compared = make_compared()
    verdict = replace(compared.verdicts[0], outcome="no interval", low=None, high=None)
    page = render_compared(replace(compared, draws=0, verdicts=[verdict]))
    assert "Bootstrap" not in page
    assert "Rivals are chosen by validation, not by test: " in page


def test_text_stays_text(browser, tmp_path):
    attack = "".join(PAYLOADS)
    page = visit(browser, make_compared(attack), tmp_path)
    assert page.evaluate("document.documentElement.dataset.ran") is None
    assert page.locator("img, iframe, object, embed, body svg[onload]").count() == 0
    assert MARK in page.locator("h1").inner_text()
