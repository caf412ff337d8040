"""Budgets: text in, text out, and every misprint refused."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bitsmith.blueprint import UNITS, Budget, format_cost
from bitsmith.errors import BudgetError

COST = st.sampled_from(sorted(UNITS))
LIMIT = st.one_of(st.integers(1, 10**15).map(float), st.floats(1e-3, 1e15, allow_nan=False))


@given(cost=COST, limit=LIMIT)
@example(cost="weights", limit=1001.0)  # 1.001 * 1000 is 1000.9999999999999 in floats
def test_print_and_parse_round_trip(cost, limit):
    budget = Budget(cost=cost, limit=limit)
    assert Budget.parse(str(budget)) == budget


@given(thousandths=st.integers(1, 10**7), unit=st.sampled_from(["kB", "MB", "GB"]))
def test_decimals_mean_what_they_say(thousandths, unit):
    """A budget of 1.001 kB admits 1001 bytes, not one less."""
    budget = Budget.parse(f"size={thousandths // 1000}.{thousandths % 1000:03d}{unit}")
    assert budget.limit == thousandths * {"kB": 1, "MB": 1000, "GB": 10**6}[unit]


@pytest.mark.parametrize(
    ("text", "cost", "limit"),
    [
        ("size=20kB", "size", 20_000),
        ("ram=64KiB", "ram", 65_536),
        ("weights=19000B", "weights", 19_000),
        ("macs=12M", "macs", 12_000_000),
        ("bitops=1.2G", "bitops", 1_200_000_000),
        ("params=80k", "params", 80_000),
        ("avg_bits=2.5", "avg_bits", 2.5),
        ("  size = 1e3 B ", "size", 1000),
        ("params=80000", "params", 80_000),
    ],
)
def test_examples(text, cost, limit):
    assert Budget.parse(text) == Budget(cost=cost, limit=limit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size=20", "can't be in 'a bare number'; it takes B, kB"),
        ("size=20M", "can't be in 'M'"),
        ("macs=20kB", "can't be in 'kB'; it takes no unit, k"),
        ("avg_bits=2k", "it takes no unit"),
        ("sise=20kB", "unknown cost 'sise'.*known are params, weights"),
        ("size:20kB", "write it as size=20kB"),
        ("size=-20kB", "can't read"),
        ("size=1.2.3kB", "is not a number"),
        ("size=.kB", "is not a number"),
        ("size=0kB", "positive"),
        ("size=1e999kB", "positive"),
        ("", "can't read"),
    ],
)
def test_misprints(text, message):
    with pytest.raises(BudgetError, match=message):
        Budget.parse(text)


@given(st.text(max_size=15))
def test_any_text_is_read_or_refused(text):
    try:
        Budget.parse(text)
    except BudgetError:
        return


@pytest.mark.parametrize("limit", [0, -1, float("inf"), float("nan")])
def test_limits_that_limit_nothing(limit):
    with pytest.raises(BudgetError, match="positive"):
        Budget(cost="size", limit=limit)


@pytest.mark.parametrize(
    ("cost", "value", "text"),
    [
        ("weights", 20144, "20.14 kB"),
        ("macs", 1.25e7, "12.5 M"),
        ("size", 12, "12 B"),
        ("avg_bits", 2.5, "2.5"),
        ("params", 999, "999"),
        ("ram", 0, "0 B"),
        ("bitops", 3.2e13, "32 T"),
    ],
)
def test_format(cost, value, text):
    assert format_cost(cost, value) == text
