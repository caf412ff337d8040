"""What `check` and `cost` say of filters of their own."""

import json
import math

import graphs
import pytest

import bitsmith as bs
from bitsmith.pipeline import estimate as estimating
from bitsmith.search import SoftFilters

RECIPE = """
model: {{spec: resnet8_slim}}
data: {{source: digits, limit: 200}}
space: {{weight_bits: [2, 4, 8], activation_bits: [8]}}
budgets: ["weights=1500B", "weights=100B"]
method: {{name: {method}}}
train: {{epochs: 1}}
float_plan: {{epochs: 1}}
baselines: []
"""


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    """No step is really made to be timed."""
    monkeypatch.setattr(estimating, "_step", lambda *_: 0.1)


@pytest.fixture
def recipe(tmp_path):
    """A function that writes a recipe and gives its path."""

    def write(method, drop=""):
        path = tmp_path / "recipe.yaml"
        text = RECIPE.format(method=method)
        path.write_text(text.replace(f', "{drop}"', "") if drop else text)
        return path

    return write


def test_the_least_is_that_of_as_few_filters_as_there_can_be(bitsmith, recipe):
    """Not that of the bits alone, which says that what can be met is out of reach."""
    path = recipe("filters", drop="weights=100B")
    found = json.loads(bitsmith("check", path, "--json").stdout)
    (row,) = found["budgets"]
    # One filter in each of eight layers inside, of 9 weights, or 1 in the shortcut's; 9 B and 10 B at the ends.
    assert (found["ok"], row["state"]) == (True, "binds")
    assert row["least"] < 60
    said = bitsmith("check", path).stdout
    assert "out of reach" not in said
    assert "Every budget can be met." in said
    kept = json.loads(
        bitsmith("check", recipe("filters, remove: false", drop="weights=100B"), "--json", check=1).stdout
    )
    assert kept["budgets"][0]["state"] == "out of reach"
    assert kept["budgets"][0]["least"] == 5160
    assert not kept["ok"]


def test_what_no_filters_meet_is_out_of_reach(bitsmith, recipe):
    path = recipe("filters")
    path.write_text(path.read_text().replace("100B", "20B"))
    found = json.loads(bitsmith("check", path, "--json", check=1).stdout)
    first, second = found["budgets"]
    assert (first["state"], second["state"]) == ("binds", "out of reach")
    assert f"weights is at least {second['least']:g} B" in found["problem"]


def test_the_estimate_is_of_the_mixture_of_filters(bitsmith, recipe, monkeypatch):
    """At the search's own batch size."""
    timed = []

    def step(job, network, batch_size=None):
        timed.append((type(network), batch_size))
        return 1.0 if isinstance(network, SoftFilters) else 0.0

    monkeypatch.setattr(estimating, "_step", step)
    path = recipe("filters, plan: {epochs: 3, batch_size: 50, lr: 0.05}, norm_batches: 9")
    seconds = json.loads(bitsmith("check", path, "--json").stdout)["seconds"]
    assert (SoftFilters, 50) in timed
    steps = math.ceil(len(bs.open_data("digits", limit=200).training) / 50)
    assert seconds["search"] == 2 * (3 * steps + 9 / 3)  # two budgets; a forward pass is a third of a step


@pytest.mark.parametrize("bits", [{"weight": (2, 4, 8, 2), "activation": 8}, {"weight": 8, "activation": (8, 4, 8, 4)}])
def test_cost_of_filters_of_their_own_at_another_width(bitsmith, tmp_path, bits):
    plain = graphs.blueprint(graphs.residual(channels=4))
    paths = {}
    for name, blueprint in (
        ("plain", plain),
        ("own", plain.with_bits({**plain.bits, "a.conv1": bs.Bits(**bits)})),
    ):
        paths[name] = tmp_path / f"{name}.json"
        paths[name].write_text(blueprint.to_json())
    said = bitsmith("cost", "--blueprint", paths["own"], "--width", 0.5, check=1).stderr
    assert "own.json has filters or maps with bits of their own, and --width doesn't say which" in " ".join(
        said.split()
    )
    whole, half = (
        json.loads(bitsmith("cost", "--blueprint", paths["plain"], *more, "--json").stdout)
        for more in ((), ("--width", 0.5))
    )
    assert half["weight_bytes"] < whole["weight_bytes"]
