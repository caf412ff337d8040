"""The page in a real browser, without network: drawn, alive, readable, and text stays text."""

import re
import shutil
import time
from dataclasses import replace

import pytest
from hostile import MARK, PAYLOADS
from playwright.sync_api import Page, sync_playwright

from bitsmith.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SMALLEST_TEXT = 12  # CSS pixels
LEAST_CONTRAST = 4.5  # WCAG 2.2, level AA

# Every visible text with its size, and its color and background as the eye gets them: [text, size, contrast].
TEXTS = """
() => {
  const parse = (color) => {
    const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const luminance = (color) => {
    const [r, g, b] = color.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || !element.getClientRects().length || element.closest("script, style, noscript")) continue;
    const style = getComputedStyle(element), back = behind(element);
    const ink = over(parse(element.closest("svg") ? style.fill : style.color), back);
    const [low, high] = [luminance(ink), luminance(back)].sort((a, b) => a - b);
    found.push([text, parseFloat(style.fontSize), (high + 0.05) / (low + 0.05)]);
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Open a record's page; afterwards it must have asked for nothing else and written nothing to the console."""
    opened, heard = [], []

    def open_page(record, *, width=800, scheme="light", scripts=True, change=lambda html: html) -> Page:
        path = write_report(record, tmp_path / str(len(opened)))
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, java_script_enabled=scripts
        )
        page = context.new_page()
        page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error: {error}"))
        page.on("dialog", lambda dialog: heard.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: heard.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri(), timeout=120_000)
        if scripts:
            wait(page, "[...document.querySelectorAll('figure[data-drawn]')].every(f => f.querySelector('.main-svg'))")
        opened.append(context)
        return page

    yield open_page
    for context in opened:
        context.close()
    assert heard == []


@pytest.fixture
def front(record, row):
    """A run with a front: two methods at three budgets, networks of fixed bits, one that was not trained."""
    rows = [record().rows[0]]
    for size, ours, theirs in ((10, 0.85, 0.84), (15, 0.88, 0.89), (20, 0.91, 0.905)):
        meets = {f"size={limit}kB": limit >= size for limit in (10, 15, 20)}
        for name, kind, test in (("composite", "found", ours), ("uniform+fill", "baseline", theirs)):
            rows.append(row(name, kind, test, 990.0 * size, budget=f"size={size}kB", meets=meets))
    nothing = {f"size={limit}kB": False for limit in (10, 15, 20)}
    rows.append(row("w8a8", "baseline", 0.92, 80_000.0, budget="", meets=nothing, trained=False))
    found = [r.folder for r in rows if r.kind == "found"]
    layers = record().layers["composite-size=20kB"]
    bits = dict(zip(found, ((1, 2), (2, 4), (3, 8)), strict=True))
    return record(
        rows=rows, chosen=found, requested=[replace(record().requested[0], network=folder) for folder in found],
        layers={
            folder: [replace(layer, weight_bits=bits[folder][i % 2]) for i, layer in enumerate(layers)]
            for folder in found
        },
    )  # fmt: skip


def wait(page, condition, seconds=20):
    """Until a condition holds on the page. Playwright's own evaluates a text there, which the page's policy bars."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def center(page, selector, index=0):
    box = page.locator(selector).nth(index).bounding_box()
    assert box is not None, selector
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def hover(page, x, y):
    """What plotly says about a place."""
    label = page.locator(".hoverlayer .hovertext")
    page.mouse.move(1, 1)
    wait(page, "!document.querySelector('.hoverlayer .hovertext')")
    page.mouse.move(x, y)
    label.first.wait_for()
    return " | ".join(label.all_text_contents())


def test_every_chart_is_drawn_with_all_its_points(visit, front):
    page = visit(front)
    # Accuracy, three networks, of which one search measured sensitivities, one explained, two curves.
    assert page.locator("figure[data-plot]").count() == 8
    assert page.locator("figure[data-drawn]").count() == 5  # two networks wait behind the first
    accuracy = page.locator("figure[data-plot]").nth(0)
    rings = 4  # networks that no other one beats; the end of the staircase has a marker of no size
    shown = accuracy.evaluate("f => [...f.querySelectorAll('.points path')].filter(p => p.getBBox().width > 0).length")
    assert shown == 7 + rings
    assert accuracy.locator(".scatterlayer .js-line").count() == 3  # two methods, the staircase
    assert accuracy.locator(".errorbar").count() == 7
    layers = page.locator("#networks > div").nth(0)
    assert layers.locator(".barlayer .point").count() == 4 * 10  # two kinds of bits, two shares, ten layers
    curves = page.locator(".pair figure")
    assert [curves.nth(i).locator(".scatterlayer .js-line").count() for i in range(2)] == [2, 2]


def test_hovering_names_the_network_and_its_numbers(visit, front):
    page = visit(front)
    page.locator("figure[data-plot]").nth(0).scroll_into_view_if_needed()
    places = page.evaluate(
        "[...document.querySelectorAll('figure[data-plot]')[0].querySelectorAll('.points path')]"
        ".map(p => p.getBoundingClientRect()).filter(r => r.width > 0)"
        ".map(r => [r.x + r.width / 2, r.y + r.height / 2])"
    )
    said = {hover(page, x, y) for x, y in places}
    assert any(
        all(text in words for text in ("composite at size=20kB", "accuracy 91.00 %", "size 19.8 kB", "seed 0"))
        for words in said
    )
    assert any("w8a8" in words and "not trained" in words and "80 kB" in words for words in said)
    page.locator("#networks").scroll_into_view_if_needed()
    bar = page.locator("#networks > div").nth(0).locator(".barlayer .point").nth(1)
    box = bar.bounding_box()
    assert box is not None
    assert hover(page, box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) == "stage1.0.conv1weight bits: 2"
    page.locator(".pair figure").nth(1).scroll_into_view_if_needed()
    box = page.locator(".pair figure").nth(1).locator(".scatterlayer .js-line").nth(0).bounding_box()
    assert box is not None
    assert hover(page, box["x"] + 3, box["y"] + 3) == "size57800 at 1"


def test_the_layers_of_each_network_can_be_chosen(visit, front):
    page = visit(front)
    panels, choice = page.locator("#networks > div"), page.locator("select")
    assert choice.locator("option").all_text_contents() == [f"composite at size={n}kB" for n in (10, 15, 20)]
    for i, bits in enumerate(("1 2 1 2 1 2 1 2 1 2", "2 4 2 4 2 4 2 4 2 4", "3 8 3 8 3 8 3 8 3 8")):
        choice.select_option(index=i)
        assert [panels.nth(j).is_visible() for j in range(3)] == [i == j for j in range(3)]
        panel = panels.nth(i)
        panel.locator(".barlayer .point").first.wait_for()
        drawn = panel.locator(".barlayer .trace").nth(0).locator(".bartext").all_text_contents()
        assert " ".join(drawn) == bits
        panel.locator("summary").click()
        assert panel.locator("tbody tr").nth(1).locator("td").nth(3).inner_text() == bits.split()[1]


def test_without_scripts_the_tables_are_there(visit, front):
    page = visit(front, scripts=False)
    assert page.locator("#networks > div").count() == 3
    assert all(page.locator("#networks > div").nth(i).is_visible() for i in range(3))
    assert not page.locator("select").is_visible()


@pytest.mark.parametrize("width", [400, 800, 1400])
def test_nothing_runs_off_the_page_and_all_text_is_large_enough(visit, front, width):
    page = visit(front, width=width)
    page.locator("summary").evaluate_all("all => all.forEach((s) => s.parentElement.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    texts = page.evaluate(TEXTS)
    assert len(texts) > 150
    assert [(text, size) for text, size, _ in texts if size < SMALLEST_TEXT] == []
    widths = page.evaluate("[...document.querySelectorAll('figure[data-drawn] .main-svg')].map(s => s.clientWidth)")
    assert min(widths) >= 300
    # What is wider than the screen scrolls inside its own box.
    wide = page.evaluate(
        "[...document.querySelectorAll('main *, header *')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll')).length"
    )
    assert wide == 0


def test_charts_follow_the_width_of_the_window(visit, record):
    page = visit(record(), width=1000)
    before = page.locator(".main-svg").first.evaluate("s => s.clientWidth")
    page.set_viewport_size({"width": 400, "height": 900})
    wait(page, f"document.querySelector('.main-svg').clientWidth < {before / 2}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out(visit, front, scheme):
    page = visit(front, scheme=scheme)
    page.locator("summary").evaluate_all("all => all.forEach((s) => s.parentElement.open = true)")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) > 384) == (scheme == "light")
    texts = page.evaluate(TEXTS)
    shown = {text for text, _, _ in texts}
    # Body, table, chart (tick, axis, annotation, point, bar) and legend are among them.
    assert {"Results", "not trained", "size", "accuracy, test, %", "20 kB", "stage1.0.conv1", "fixed bits"} <= shown
    assert any("float 93.02 %" in text for text in shown)
    assert [(text, round(contrast, 2)) for text, _, contrast in texts if contrast < LEAST_CONTRAST] == []


def test_a_change_of_scheme_reaches_the_charts(visit, record):
    page = visit(record())
    ink = "getComputedStyle(document.querySelector('.xtick text')).fill"
    light = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ink) != light


@pytest.mark.parametrize("fenced", [True, False])
def test_text_stays_text(visit, hostile, fenced):
    """Escaping holds by itself, so that a second copy goes without the page's policy."""
    attack = "".join(PAYLOADS)

    def unfence(html):
        bare = re.sub(r"<meta http-equiv=[^>]*>", "", html)
        assert len(bare) < len(html)
        return bare

    page = visit(hostile(attack), width=400, change=(lambda html: html) if fenced else unfence)
    assert page.locator("figure[data-drawn]").count() == 5
    assert page.evaluate("document.documentElement.dataset.ran") is None
    assert page.locator("img, a, iframe, object, embed, body svg[onload]").count() == 0
    attributes = page.evaluate("[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())")
    assert not any(name.startswith("on") for name in attributes)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    wanted = attack.replace("\x00", "")  # browsers leave out zero bytes
    assert page.locator(".verdict").evaluate("e => e.textContent") == wanted
    assert page.locator("option").evaluate("e => e.textContent").startswith(wanted)
    page.locator("figure[data-plot]").nth(0).scroll_into_view_if_needed()
    said = hover(page, *center(page, "figure[data-plot] >> nth=0 >> .points >> nth=1 >> path"))
    for text in (f"<img src=x onerror={MARK}>", f"<script>{MARK}</script>", "<b>x</b><br>%{y}%{customdata[0]}"):
        assert text in said
    assert page.evaluate("document.documentElement.dataset.ran") is None


def test_the_payloads_do_run_where_nothing_escapes_them(browser, tmp_path):
    """Otherwise the test above would prove nothing."""
    naked = tmp_path / "naked.html"
    naked.write_text(f"<!doctype html><html><body>{PAYLOADS[0]}{PAYLOADS[1]}</body></html>", encoding="utf-8")
    page = browser.new_page()
    page.goto(naked.as_uri(), timeout=120_000)
    assert page.evaluate("document.documentElement.dataset.ran") == "1"
    page.close()
