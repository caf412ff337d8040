import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hostile import PAYLOADS

from bitsmith.report import write_report
from bitsmith.report.page import _duration, render


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
def test_text_never_becomes_structure(hostile, text):
    plain, page = Page(render(hostile("harmless"))), Page(render(hostile(text)))
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
        "composite chosen front size=20kB w1-8 a8 91.20 % 91.50 % 19.9 kB ✓ yes 30 25 min 30 s 0 onnx",
        "uniform 8 front – w8a8 92.54 % 91.50 % 80.4 kB ✗ none",
        "composite at size=20kB size 20 kB 19.9 kB 99.5 % ✓ yes",
        "model.onnx ✓ yes bit-identical 10,000 all, at DISABLE_ALL, BASIC, EXTENDED, ALL 91.20 %",
        "weights 77,360",
        "bitsmith run cifar10.yaml --budget size=20kB --seed 0",
        record().verdict,
    ]:
        assert words in shown
    assert shown.count(" chosen ") == 1


def test_removed_filters_are_told_per_layer(record):
    assert '<th scope="col">filters</th>' not in render(record())
    folder, layers = next(iter(record().layers.items()))
    told = replace(layers[0], filters="16 filters: 12 removed, 4 at 2 bits")
    html = render(record(layers=record().layers | {folder: [told, *layers[1:]]}))
    assert html.count('<th scope="col">filters</th>') == 1
    assert "<td>16 filters: 12 removed, 4 at 2 bits</td>" in html


def test_long_words_of_a_check_may_wrap(record):
    assert re.search(r'<td class="prose">[^<]*</td>', render(record()))
    assert ".compare td.prose { white-space: normal;" in render(record())


def test_bits_asked_and_executed_are_shown(record):
    page = Page(render(record()))
    shown = " ".join(page.text)
    assert "Bits asked and bits executed" in shown
    assert "asked for fewer bits than they run in" in shown
    assert "bytes and time" in shown
    assert "Bits asked" not in render(record(speeds=[]))


def test_the_marked_front_is_that_of_a_figure(record):
    html = render(record())
    said = re.search(r"no other network here is better in accuracy and (\w+) at once", html)
    assert said is not None
    assert f"Accuracy against {said[1]}" in html


def test_empty_parts_are_left_out_or_said(record):
    bare = record(
        rows=[], chosen=[], layers={}, sensitivities={}, explained={}, latencies=[], speeds=[], curves=[],
        requested=[], verification=[], notes=[],
    )  # fmt: skip
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
