"""Budgets: text in, text out, and every misprint refused."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bitsmith.blueprint import UNITS, Budget, Power, format_cost, fronts, json_name
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
        ("energy=40uJ", "energy", 4e-5),
        ("energy=40\N{MICRO SIGN}J", "energy", 4e-5),
        ("energy=0.3 nJ", "energy", 3e-10),
        ("latency=3ms", "latency", 3e-3),
        ("latency=250us", "latency", 2.5e-4),
        ("flash=1MiB", "flash", 1_048_576),
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
        ("energy=40kB", "can't be in 'kB'; it takes J, mJ, uJ, nJ"),
        ("latency=3", "it takes s, ms, us"),
        ("power=5mW", "a power is that of inferences at a rate: write it as power=5mW@30fps"),
        ("power=5mW@", "write it as power=5mW@30fps"),
        ("power=5mJ@30fps", "power in .* can't be in 'mJ'; it takes W, mW, uW"),
        ("power=5mW@30", "a rate in .* can't be in 'a bare number'; it takes fps, Hz"),
        ("power=5mW@0fps", "positive"),
        ("power=0W@3fps", "positive"),
        ("power=1e300W@1e-300fps", "positive"),
        ("energy=5mJ@30fps", "can't read"),
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


def spelled(*texts):
    return [", ".join(map(str, line)) for line in fronts(*texts)]


@pytest.mark.parametrize(
    ("texts", "networks"),
    [
        (("size=10,15,20kB",), ["size=10kB", "size=15kB", "size=20kB"]),
        (("size=10kB,0.02MB",), ["size=10kB", "size=20kB"]),
        (("size=1, 2 ,3KiB",), ["size=1.024kB", "size=2.048kB", "size=3.072kB"]),
        (("avg_bits=2,2.5",), ["avg_bits=2", "avg_bits=2.5"]),
        (("macs=1e6,2e6",), ["macs=1M", "macs=2M"]),
        (("params=800,900",), ["params=800", "params=900"]),
        (("size=10,20kB", "ram=64kB"), ["size=10kB, ram=64kB", "size=20kB, ram=64kB"]),
        (("ram=64kB", "size=10,20kB", "macs=1G"), ["ram=64kB, size=10kB, macs=1G", "ram=64kB, size=20kB, macs=1G"]),
        ((Budget(cost="size", limit=5.0), "ram=1kB"), ["size=5B, ram=1kB"]),
    ],
)
def test_fronts_are_one_set_of_budgets_per_value(texts, networks):
    assert spelled(*texts) == networks


@given(st.sampled_from(["size", "weights", "ram"]), st.lists(st.integers(1, 999), min_size=1, max_size=5, unique=True))
def test_a_front_is_its_values_one_by_one(cost, values):
    together = f"{cost}={','.join(map(str, values))}kB"
    assert spelled(together) == [str(Budget.parse(f"{cost}={value}kB")) for value in values]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("size=10,15",), "can't be in 'a bare number'"),
        (("size=10kB,15",), "has units here and there"),
        (("size=8,9kB,0.01MB",), "has units here and there"),
        (("size=10,,15kB",), "can't read '' in the front"),
        (("size=10,15kB,",), "can't read '' in the front"),
        (("size=10,-5kB",), "can't read '-5kB' in the front"),
        (("size=10kB,macs=1M",), "size=10,15,20kB, and another cost's limit as a budget of its own"),
        (("size=10,0kB",), "positive"),
        (("size=10kB,0.01MB",), "has size=10kB twice"),
        (("sice=1,2kB",), "unknown cost 'sice'"),
        (("size=10kB", "size=20kB"), "limited twice, by size=10kB and by size=20kB"),
        (("size=10,20kB", "ram=1,2kB"), "size=10,20kB and ram=1,2kB are both fronts"),
    ],
)
def test_fronts_that_say_nothing_clear(texts, message):
    with pytest.raises(BudgetError, match=message):
        fronts(*texts)


@given(st.text(alphabet="sizeram=kBM0123456789.,e -", max_size=20))
def test_any_front_is_read_or_refused(text):
    try:
        fronts(text)
    except BudgetError:
        return


def test_one_budget_is_not_a_front():
    with pytest.raises(BudgetError, match=r"bitsmith\.fronts\('size=10,20kB'\) lists them"):
        Budget.parse("size=10,20kB")


@given(watts=st.integers(1, 10**9).map(lambda n: n / 10**7), rate=st.integers(1, 10**6).map(lambda n: n / 10**3))
@example(watts=0.005, rate=30.0)
def test_a_power_is_an_energy_that_prints_as_it_was_written(watts, rate):
    power = Power(watts=watts, rate=rate)
    budget = Budget(cost="energy", limit=power.joules, power=power)
    assert Budget.parse(str(budget)) == budget
    assert str(budget).startswith("power=")
    assert budget.limit == pytest.approx(watts / rate, rel=1e-15)


def test_power_in_words():
    budget = Budget.parse("power=5mW@30fps")
    assert str(budget) == "power=5mW@30fps"
    assert budget.cost == "energy"
    assert budget.describe(3e-4) == "300 uJ (9 mW at 30fps)"
    assert Budget.parse("energy=1uJ").describe(3e-4) == "300 uJ"


def test_fronts_of_energies_and_powers():
    assert [str(b) for (b,) in fronts("energy=10,20uJ")] == ["energy=10uJ", "energy=20uJ"]
    assert [str(b) for (b,) in fronts("power=5,10mW@30fps")] == ["power=5mW@30fps", "power=10mW@30fps"]
    assert [str(b) for (b,) in fronts("power=5mW,0.1W@2Hz")] == ["power=5mW@2fps", "power=100mW@2fps"]
    with pytest.raises(BudgetError, match="energy is limited twice"):
        fronts("energy=10uJ", "power=5mW@30fps")
    with pytest.raises(BudgetError, match="can't read the power 'power=5mW@10,30fps'"):
        fronts("power=5mW@10,30fps")


def test_names_of_plain_numbers():
    names = [json_name(cost) for cost in ("weights", "size", "macs", "energy", "latency", "avg_bits")]
    assert names == ["weight_bytes", "size_bytes", "macs", "energy_joules", "latency_seconds", "avg_bits"]
