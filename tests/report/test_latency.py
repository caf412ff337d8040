"""Predicted against measured in the record and on the page."""

from dataclasses import replace

import pytest

from bitsmith.errors import RunError
from bitsmith.report import Latency, median_error
from bitsmith.report.page import render

LINE = Latency(network="composite-size=20kB", predicted=1.1e-4, measured=1e-4, spread=2e-6, known=False, setting="here")


def test_the_median_error_is_of_what_is_new_and_measured():
    lines = [replace(LINE, predicted=value) for value in (1.02e-4, 0.96e-4, 1.09e-4)]
    assert median_error(lines) == pytest.approx(0.04)
    assert median_error([*lines, replace(LINE, predicted=9e-4, known=True)]) == pytest.approx(0.04)
    assert median_error([replace(LINE, known=True), replace(LINE, measured=None, spread=None)]) is None


def test_a_measurement_has_a_spread():
    for fields in ({"measured": None}, {"spread": None}, {"measured": 0.0}):
        with pytest.raises(RunError, match="composite"):
            replace(LINE, **fields)


def test_the_page_shows_both_and_the_error(record):
    page = render(record(latencies=[LINE]))
    assert "+10.0 %" in page
    assert "Median error of networks new to the table: 10.0 %" in page
    elsewhere = render(record(latencies=[replace(LINE, measured=None, spread=None, setting="nothing")]))
    assert "Measured: nothing" in elsewhere
    assert "Median error" not in elsewhere
    assert "Latency, predicted" not in render(record(latencies=[]))
