import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from bitsmith.report import Curve, write_report
from bitsmith.report.page import _duration, render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MARK = "document.documentElement.dataset.ran=1"  # leaves a trace in the dumped DOM if it is ever executed
PAYLOADS = [
    f"</script><script>{MARK}</script>",
    f"<img src=x onerror={MARK}>",
    f'"><svg onload="{MARK}">',
    f"'-{MARK}-'",
    f'<a href="javascript:{MARK}">x</a>',
    "<!--<script>",
    "]]>{{ 7 * 7 }}{% raw %}",
    "\u2028&lt;b&gt;\x00",
]


class Page(HTMLParser):
    """Tags with their attributes, the text of each script, and all other text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.scripts, self.text = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)


def hostile(record, row, text):
    """The sample with every free text replaced."""
    sample = record()
    return replace(
        sample,
        title=text, verdict=text, network={text: text}, data={text: text, "test_images": 100}, chosen=text,
        rows=[replace(r, name=text, bits=text, metric=text, folder=text) for r in sample.rows],
        layers=[replace(layer, name=text, kind=text) for layer in sample.layers],
        curves=[Curve(name=text, x_label=text, x=[1.0, 2.0], series={text: [1.0, 2.0]}, limits={text: 1.5})],
        verification=[
            replace(v, artefact=text, level=text, equal_outputs={text: 1}, first_difference=text, ok=False)
            for v in sample.verification
        ],
        environment={text: text}, notes=[text], command=text,
    )  # fmt: skip


def test_it_loads_nothing_from_anywhere(record, tmp_path):
    html = write_report(record(), tmp_path).read_text(encoding="utf-8")
    page = Page(html)
    loading = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href", "ping"}
    assert [(tag, attrs) for tag, attrs in page.tags if loading & set(attrs)] == []
    assert {"link", "iframe", "img", "object", "embed", "base"}.isdisjoint(tag for tag, _ in page.tags)
    css = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in css
    assert "@import" not in css
    assert html.count("plotly.js v") == 1


def test_the_policy_allows_exactly_the_two_scripts_inside(record):
    html = render(record())
    page = Page(html)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    script_tags = [attrs for tag, attrs in page.tags if tag == "script"]
    run = [text for attrs, text in zip(script_tags, page.scripts, strict=True) if attrs.get("type") is None]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    assert len(run) == 2
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in re.search(r"script-src[^;]*", policy)[0]


@pytest.mark.parametrize("text", PAYLOADS)
def test_text_never_becomes_structure(record, row, text):
    plain, page = Page(render(hostile(record, row, "harmless"))), Page(render(hostile(record, row, text)))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert [set(attrs) for _, attrs in page.tags] == [set(attrs) for _, attrs in plain.tags]
    shown = "".join(page.text)
    assert shown.count(text) >= 20
    for script, attrs in zip(page.scripts, (a for t, a in page.tags if t == "script"), strict=True):
        if attrs.get("type") == "application/json":
            json.loads(script)
            assert "<" not in script


def test_the_tables_say_what_the_record_says(record):
    shown = re.sub(r"\s+", " ", " ".join(Page(render(record())).text))
    for words in [
        "composite chosen w1-8 a8 91.20 % 91.50 % 19.9 kB ✓ yes 30 25 min 30 s 0 onnx",
        "uniform 8 w8a8 92.54 % 91.50 % 80.4 kB ✗ no",
        "size 20 kB 19.9 kB 99.5 % ✓ yes",
        "model.onnx ✓ yes bit-identical 10,000 DISABLE_ALL: 10,000 BASIC: 10,000",
        "weights 77,360",
        "bitsmith run cifar10.yaml --budget size=20kB --seed 0",
        record().verdict,
    ]:
        assert words in shown
    assert shown.count(" chosen w") == 1


def test_empty_parts_are_left_out_or_said(record):
    bare = record(rows=[], chosen="", layers=[], curves=[], requested=[], verification=[], notes=[])
    page = Page(render(bare))
    shown = " ".join(page.text)
    assert "No exported file was verified." in shown
    assert not any(tag == "figure" for tag, _ in page.tags)
    assert "Notes" not in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (80, "1 min 20 s"),
        (3599.7, "1 h 0 min"),
        (4000, "1 h 7 min"),
    ],
)
def test_durations(seconds, text):
    assert _duration(seconds) == text


def browse(path, profile):
    """The DOM after the page's scripts ran, and what they wrote to the console, without network."""
    assert CHROMIUM is not None
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
        "--disable-background-networking", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={profile}", "--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom",
    ]  # fmt: skip
    done = subprocess.run([CHROMIUM, *flags, path.as_uri()], capture_output=True, timeout=120, check=True)
    console = [line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
    return done.stdout.decode(), console


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium installed")
def test_a_browser_draws_all_figures_and_runs_nothing_else(record, row, tmp_path):
    attack = "".join(PAYLOADS)
    page = write_report(hostile(record, row, attack), tmp_path / "hostile")
    # Escaping must hold by itself, so a second copy goes without the policy.
    unfenced = tmp_path / "unfenced.html"
    html = page.read_text(encoding="utf-8")
    unfenced.write_text(re.sub(r"<meta http-equiv=[^>]*>", "", html), encoding="utf-8")
    assert len(unfenced.read_text(encoding="utf-8")) < len(html)
    # Without escaping the same text does run: otherwise the two checks above it would prove nothing.
    naked = tmp_path / "naked.html"
    naked.write_text(f"<!doctype html><html><body>{PAYLOADS[0]}{PAYLOADS[1]}</body></html>", encoding="utf-8")

    for path in (page, unfenced):
        dom, console = browse(path, tmp_path / "profile")
        assert not re.search(r"<html[^>]*data-ran", dom)
        assert console == []
        drawn = Page(dom)
        assert sum("js-plotly-plot" in (attrs.get("class") or "") for _, attrs in drawn.tags) == 3
        assert sum(attrs.get("class") == "main-svg" for _, attrs in drawn.tags) >= 3
        assert {"img", "a"}.isdisjoint(tag for tag, _ in drawn.tags)
        assert not any(name.startswith("on") for _, attrs in drawn.tags for name in attrs)
    dom, _ = browse(naked, tmp_path / "profile")
    assert re.search(r"<html[^>]*data-ran", dom)
