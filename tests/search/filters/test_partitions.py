"""Partitions of filters: who decides which map's bits, expected costs, one network for all of them, exact budgets."""

import dataclasses
import itertools
import math

import graphs
import numpy as np
import pytest
import torch
from torch import Tensor

from bitsmith.blueprint import Budget, NetworkGraph
from bitsmith.cost import exact, fits, price
from bitsmith.data import open_data
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.quantize import build
from bitsmith.search import Problem
from bitsmith.search.filters.costs import RelaxedCosts
from bitsmith.search.filters.makers import find_makers
from bitsmith.search.filters.multinomial import Multinomial, rounded_down
from bitsmith.search.filters.partitions import Partitions
from bitsmith.search.filters.sampled import SampledFilters
from bitsmith.search.filters.settle import Settler
from bitsmith.space import Precision, precision
from bitsmith.train import Task, TrainPlan, calibrate

PAIRS = ((2, 2), (2, 4), (3, 3), (8, 8))


def block(channels: int = 4) -> NetworkGraph:
    """A stem, a block with a shortcut of its own, a gate, a concat, a classifier."""
    s = graphs.Sketch((1, 8, 8))
    y = s.same("relu", "stem.relu", s.conv("stem", "x", channels))
    y = graphs.basic_block(s, "a", y, 2 * channels, stride=2)
    y = graphs.basic_block(s, "b", y, 2 * channels)
    y = s.gate("g", y)
    z = s.same("relu", "side.relu", s.conv("side", y, channels))
    y = s.concat("cat", z, y)
    y = s.same("relu", "deep.relu", s.conv("deep", y, channels))
    return s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 10))


def space_of(graph: NetworkGraph, *, ends: int | None = 8, quantizer: str = "lsq") -> Precision:
    template = dataclasses.replace(graphs.blueprint(graph), quantizer=quantizer)
    return precision(template, (2, 3, 8), (2, 3, 4, 8), ends=ends)


@pytest.fixture(scope="module")
def partitions() -> Partitions:
    return Partitions(space_of(block()), PAIRS)


def drawn(partitions: Partitions, seed: int):
    torch.manual_seed(seed)
    p = {name: torch.softmax(2 * torch.randn(len(partitions.choices[name])).double(), 0) for name in partitions.free}
    return p, partitions.draw(p)


def made_by(makers) -> list[tuple[str, int]]:
    return [(makers.layers[o] if o >= 0 else "", int(f)) for o, f in zip(makers.owner, makers.filter, strict=True)]


class TestMakers:
    def test_of_a_block(self):
        found = find_makers(block())
        assert made_by(found["stem"]) == [("", 0)]
        assert made_by(found["a.conv1"]) == [("stem", f) for f in range(4)]
        # The block's last convolution, neither the 1x1 shortcut nor the identity.
        assert made_by(found["b.conv1"]) == [("a.conv2", f) for f in range(8)]
        assert made_by(found["g.fc"]) == [("b.conv2", f) for f in range(8)]
        # What is gated decides, not the gate.
        assert made_by(found["side"]) == [("b.conv2", f) for f in range(8)]
        assert made_by(found["deep"]) == [("side", f) for f in range(4)] + [("b.conv2", f) for f in range(8)]
        assert made_by(found["fc"]) == [("deep", f) for f in range(4)]

    def test_through_shuffle_split_and_flatten(self):
        s = graphs.Sketch((1, 4, 4))
        y = s.conv("a", "x", 6)
        y = s.put("shuffle", "mixed", (6, 4, 4), y, groups=2)
        y = s.flatten("flat", s.split("part", y, 1, 3))
        found = find_makers(s.graph(s.linear("fc", y, 2)))
        channels = torch.nn.functional.channel_shuffle(torch.arange(6.0).reshape(1, 6, 1, 1), 2).flatten()[1:4]
        assert found["fc"].filter.tolist() == channels.repeat_interleave(16).int().tolist()

    def test_a_layer_used_again_reads_its_deepest_use(self):
        s = graphs.Sketch((4, 4, 4))
        y = s.conv("a", s.conv("first", "x", 4), 4)
        y = s.shared("again", s.conv("between", y, 4), "a")
        found = find_makers(s.graph(y))
        assert made_by(found["a"]) == [("between", f) for f in range(4)]


class TestPartitions:
    def test_pins_keep_weights_and_choose_maps(self, partitions):
        assert partitions.choices["stem"] == ((8, 2), (8, 4), (8, 3), (8, 8))
        assert partitions.choices["a.conv1"] == PAIRS
        # The classifier's activations are pinned, so that w2a2 and w2a4 are the same before it.
        assert partitions.choices["deep"] == ((2, 0), (3, 0), (8, 0))
        assert partitions.choices["fc"] == ((8, 0),)
        # The shortcut's filters make no map that is read.
        assert partitions.choices["a.down"] == ((2, 0), (3, 0), (8, 0))

    def test_filters_are_assigned_in_order(self, partitions):
        counts = partitions.homogeneous(0) | {"a.conv1": np.array([1, 4, 1, 2])}
        assert partitions.bits("a.conv1", counts).weight == (2, 2, 2, 2, 2, 3, 8, 8)
        assert partitions.bits("a.conv2", counts).activation == (2, 4, 4, 4, 4, 3, 8, 8)

    def test_rising_bits(self, partitions):
        assert partitions.rising == set(partitions.layers)
        turned = Partitions(space_of(block()), PAIRS[::-1])
        assert "deep" not in turned.rising
        assert "fc" in turned.rising  # pinned to one bit-width

    def test_the_image_is_read_at_the_most_bits(self):
        free = Partitions(space_of(block(), ends=None), PAIRS)
        assert free.bits("stem", free.homogeneous(0)).activation == 8

    def test_refusals(self):
        with pytest.raises(RecipeError, match=r"can't take the activation bits of w2a1"):
            Partitions(space_of(block()), ((2, 1),))
        pact = space_of(block(), quantizer="pact")
        with pytest.raises(RecipeError, match="take lsq, lsq-pow2 or nice"):
            Multinomial().check(pact, [Budget.parse("weights=100kB")], trained=True)

    def test_rounded_down(self, partitions):
        p = {"deep": torch.tensor([0.5, 0.3, 0.2])}
        assert rounded_down(partitions, p)["deep"].tolist() == [2, 1, 1]

    def test_nearest_sums_to_all(self, partitions):
        for seed in range(5):
            p, _ = drawn(partitions, seed)
            counts = partitions.nearest(p)
            for name, q in p.items():
                wanted = q.numpy() * partitions.layers[name].out_channels
                assert counts[name].sum() == partitions.layers[name].out_channels
                assert np.abs(counts[name] - wanted).max() < 1


def test_expected_costs_are_means_over_draws(partitions):
    """To the sampling error, and within what docs/filters.md says of those that are relaxed."""
    p, _ = drawn(partitions, 0)
    names = ("weights", "bitops", "size", "bops")
    costs = RelaxedCosts(partitions.space, partitions.coupling, names, rising=partitions.rising)
    expected = np.array([float(value) for value in costs(partitions.shares(p))])
    values = []
    for _ in range(400):
        found = partitions.blueprint(partitions.draw(p))
        values.append([exact(c, found.graph, found.bits) for c in names])
    mean, error = np.mean(values, 0), np.std(values, 0) / 20
    streams = 3 * len(partitions.layers)  # weights round up by less than a byte each
    slack = np.array([streams, 0, 0.05 * mean[2], 0.05 * mean[3]])
    assert np.all(np.abs(mean - expected) < 4 * error + slack)


def test_the_slope_of_bitops_is_that_of_its_mean(partitions):
    """Of one layer's p, against differences of means over all its counts: exact, since nothing is relaxed."""
    p, counts = drawn(partitions, 0)
    name = "deep"
    fixed = {n: torch.from_numpy(np.eye(len(q))[int(counts[n].argmax())]) for n, q in p.items()}
    held = counts | {n: (q.numpy() * partitions.layers[n].out_channels).astype(np.int64) for n, q in fixed.items()}
    count, choices = partitions.layers[name].out_channels, len(p[name])

    def mean(q: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for n in itertools.product(range(count + 1), repeat=choices):
            if sum(n) == count:
                ways = math.factorial(count) / math.prod(map(math.factorial, n))
                found = partitions.blueprint(held | {name: np.array(n)})
                chance = ways * torch.stack([q[k] ** n[k] for k in range(choices)]).prod()
                total = total + chance * exact("bitops", found.graph, found.bits)
        return total

    alpha = p[name].log().requires_grad_()
    costs = RelaxedCosts(partitions.space, partitions.coupling, ("bitops",))
    (told,) = costs(partitions.shares(fixed | {name: alpha.softmax(0)}))
    true = mean(alpha.softmax(0))
    torch.testing.assert_close(told, true, rtol=1e-9, atol=0)
    slopes = [torch.autograd.grad(value, alpha)[0] for value in (told, true)]
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_expected_costs_at_certain_counts(partitions, seed):
    """Of one partition: bitops exactly; weights and size within what they leave out."""
    torch.manual_seed(seed)
    pairs = torch.randint(len(PAIRS), (len(partitions.free),)).tolist()
    p = {}
    counts = partitions.homogeneous(0)
    for name, k in zip(partitions.free, pairs, strict=True):
        k = min(k, len(partitions.choices[name]) - 1)
        p[name] = torch.eye(len(partitions.choices[name]), dtype=torch.float64)[k]
        counts[name] = np.eye(len(partitions.choices[name]), dtype=np.int64)[k] * partitions.layers[name].out_channels
    found = partitions.blueprint(counts)
    true = price(found.graph, found.bits)
    names = ("weights", "macs", "bitops", "size")
    costs = RelaxedCosts(partitions.space, partitions.coupling, names, rising=partitions.rising)
    told = dict(zip(names, map(float, costs(partitions.shares(p))), strict=True))
    assert told["bitops"] == pytest.approx(true["bitops"], rel=1e-9)
    assert told["macs"] == true["macs"]
    assert told["weights"] <= true["weights"] + 1e-6
    assert true["weights"] < told["weights"] + 3 * len(counts)
    places = sum(partitions.layers[name].out_channels for name in counts)  # where filters are alike, none is stored
    assert told["size"] - places <= true["size"] < told["size"] + 3 * len(counts)


@pytest.mark.parametrize("seed", range(5))
def test_bops_of_maps_that_differ(partitions, seed):
    """At one-hot shares of any partition: exact but for the ceiling of a logarithm."""
    _, counts = drawn(partitions, seed)
    found = partitions.blueprint(counts)
    shares = partitions.shares({n: torch.ones(len(partitions.choices[n])).double() / 4 for n in partitions.free})
    weight = {
        name: torch.from_numpy(partitions.weight_bits(name, counts)[:, None] == np.array(o.weight)).double()
        for name, o in partitions.space.options.items()
    }
    activation = {}
    for name, o in partitions.space.options.items():
        maps = np.atleast_1d(partitions.activation_bits(name, counts))
        hot = torch.from_numpy(maps[:, None] == np.array(o.activation)).double()
        activation[name] = hot if len(maps) > 1 else hot[0]
    one_hot = dataclasses.replace(shares, weight=weight, activation=activation)
    told = RelaxedCosts(partitions.space, partitions.coupling, ("bops", "bitops"))(one_hot)
    true = [exact(c, found.graph, found.bits) for c in ("bops", "bitops")]
    sums = sum(layer.macs for layer in found.graph.layers)
    assert float(told[0]) <= true[0] * (1 + 1e-9)
    assert true[0] <= float(told[0]) + sums
    assert float(told[1]) == true[1]


def test_held_counts_compute_what_is_built_of_them():
    """To the bit, weights and steps started alike."""
    data, partitions = open_data("digits", limit=200), Partitions(space_of(block(2)), PAIRS)
    sampled = SampledFilters(partitions)
    assert sampled(torch.rand(2, 1, 8, 8)).isfinite().all()  # it holds some from the beginning
    _, counts = drawn(partitions, 3)
    sampled.hold(counts)
    calibrate(sampled, data.train, batches=1, batch_size=16)
    network = build(partitions.blueprint(counts))
    shared = sampled.network.state_dict()
    floats = {n: v for n, v in shared.items() if "quantize_" not in n and not n.startswith("streams.")}
    network.load_float(floats)
    calibrate(network, data.train, batches=1, batch_size=16)
    x, _ = next(data.validation.batches(batch_size=20))
    with torch.no_grad():
        assert torch.equal(sampled.eval()(x), network.eval()(x))
    other = drawn(partitions, 4)[1]
    sampled.hold(other)
    with torch.no_grad():
        assert not torch.equal(sampled(x), network(x))


@pytest.mark.parametrize(("quantizer", "ends"), [("nice", 8), ("lsq", None)])
def test_steps_that_filters_share_are_handed_on(quantizer, ends):
    """Weights of the network found are those that were scored, also where its own filters would start other steps."""
    data = open_data("digits", limit=200)
    space = space_of(block(2), ends=ends, quantizer=quantizer)
    partitions = Partitions(space, PAIRS)
    sampled = SampledFilters(partitions)
    counts = drawn(partitions, 3)[1]
    sampled.network.calibrate_weights()
    sampled.hold(counts)
    problem = Problem(task=Task(data=data), space=space, budgets=[Budget.parse("weights=100kB")], seed=0)
    state = Multinomial(plan=TrainPlan(epochs=2, batch_size=64), norm_batches=1)._inherit(sampled, counts, problem)
    network = build(partitions.blueprint(counts))
    network.load_state_dict(state)
    anew = build(partitions.blueprint(counts))
    anew.load_state_dict(state)
    anew.calibrate_weights()
    differ = 0
    for name, layer in network.priced():
        scored = sampled.network.get_submodule(f"{name}.quantize_weight")(layer.weight)
        assert torch.equal(network.get_submodule(f"{name}.quantize_weight")(layer.weight), scored)
        differ += not torch.equal(anew.get_submodule(f"{name}.quantize_weight")(layer.weight), scored)
    assert differ


def size_of(partitions: Partitions, counts) -> float:
    found = partitions.blueprint(counts)
    return exact("size", found.graph, found.bits)


def rises_left(partitions: Partitions, budgets: list[Budget], counts) -> list:
    """Moves of one filter, or of all of a choice, to pairs with no fewer bits that would fit."""
    found = []
    for name in partitions.free:
        choices = partitions.choices[name]
        for k in np.flatnonzero(counts[name]):
            for j, bits in enumerate(choices):
                if j != k and bits[0] >= choices[k][0] and bits[1] >= choices[k][1]:
                    for many in {1, int(counts[name][k])}:
                        up = counts | {name: counts[name].copy()}
                        up[name][[k, j]] += (-many, many)
                        blueprint = partitions.blueprint(up)
                        if fits(blueprint.graph, blueprint.bits, budgets):
                            found.append((name, int(k), j, many))
    return found


class TestSettler:
    def budgets(self, partitions, share: float, costs=("bops", "weights")) -> list[Budget]:
        at = partitions.blueprint(partitions.homogeneous(3))
        return [Budget(cost=c, limit=share * exact(c, at.graph, at.bits)) for c in costs]

    @pytest.mark.parametrize(
        ("share", "costs"),
        [(s, ("bops", "weights")) for s in (0.45, 0.6, 0.9)] + [(s, ("size",)) for s in (0.7, 0.8, 0.9)],
    )
    def test_inside_with_no_room_for_a_step_up(self, partitions, share, costs):
        budgets = self.budgets(partitions, share, costs)
        settled = Settler(partitions, budgets).settle(drawn(partitions, 1)[0])
        found = partitions.blueprint(settled.counts)
        assert fits(found.graph, found.bits, budgets)
        assert not settled.fell_back
        assert not rises_left(partitions, budgets, settled.counts)

    def test_ample_budgets_keep_pairs_of_the_most_bits(self, partitions):
        settled = Settler(partitions, self.budgets(partitions, 1.0)).settle(drawn(partitions, 1)[0])
        assert partitions.blueprint(settled.counts) == partitions.blueprint(partitions.homogeneous(3))

    def test_room_goes_where_least_is_lost_for_it(self):
        """Weights: a filter of `wide` takes 27 bytes for 2.2 nats, one of `slim` 3 bytes for 4.6: `wide` is raised."""
        s = graphs.Sketch((1, 8, 8))
        x = s.same("relu", "stem.relu", s.conv("stem", "x", 4))
        x = s.same("relu", "wide.relu", s.conv("wide", x, 4))
        x = s.same("relu", "slim.relu", s.conv("slim", x, 4, kernel=1))
        x = s.same("relu", "last.relu", s.conv("last", x, 4))
        graph = s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", x)), 10))
        space = precision(graphs.blueprint(graph), (2, 8), (8,), ends=8, pins={"last": "w8a8"})
        either = Partitions(space, ((2, 8), (8, 8)))
        p = {"wide": torch.tensor([0.9, 0.1]).double(), "slim": torch.tensor([0.99, 0.01]).double()}
        assert set(either.free) == set(p)
        wanted = either.homogeneous(0) | {"wide": np.array([0, 4])}
        blueprint = either.blueprint(wanted)
        limit = exact("weights", blueprint.graph, blueprint.bits)
        settled = Settler(either, [Budget(cost="weights", limit=limit)]).settle(p)
        assert either.blueprint(settled.counts) == blueprint

    @pytest.mark.parametrize("extra", [0, 1000])
    def test_what_was_learned_stays_where_one_filter_saves_nothing(self, extra):
        """All at 2 and all at 4 bits cost the same, with a table each; no filter alone gets rid of one of two."""
        template = graphs.blueprint(block(8))
        two_or_four = Partitions(precision(template, (8,), (2, 4), ends=8), ((8, 2), (8, 4)))
        all_four = two_or_four.homogeneous(1)
        limit = size_of(two_or_four, all_four)
        assert limit == size_of(two_or_four, two_or_four.homogeneous(0))
        budgets = [Budget(cost="size", limit=limit + extra)]
        p = {name: torch.tensor([0.2, 0.8]).double() for name in two_or_four.free}
        settled = Settler(two_or_four, budgets).settle(p)
        assert not settled.fell_back
        assert two_or_four.blueprint(settled.counts) == two_or_four.blueprint(all_four)

    def test_the_last_resort_is_the_likeliest_and_told(self):
        """Where a layer reads the filters of two, no move in one of them gets rid of a table."""
        s = graphs.Sketch((1, 8, 8))
        x = s.same("relu", "stem.relu", s.conv("stem", "x", 4))
        a, b = (s.same("relu", f"{n}.relu", s.conv(n, x, 4)) for n in ("a", "b"))
        y = s.same("relu", "deep.relu", s.conv("deep", s.concat("cat", a, b), 4))
        graph = s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 10))
        template = graphs.blueprint(graph)
        two_or_four = Partitions(
            precision(template, (8,), (2, 4), ends=8, pins={"a": "w8a4", "b": "w8a4"}), ((8, 2), (8, 4))
        )
        assert two_or_four.free == ["a", "b"]
        p = {"a": torch.tensor([0.4, 0.6]).double(), "b": torch.tensor([0.5, 0.5]).double()}
        settled = Settler(
            two_or_four, [Budget(cost="size", limit=size_of(two_or_four, two_or_four.homogeneous(0)))]
        ).settle(p)
        assert settled.fell_back
        assert two_or_four.blueprint(settled.counts) == two_or_four.blueprint(two_or_four.homogeneous(1))

    def test_the_least_that_pairs_can_be(self, partitions):
        """Bits alone go lower than pairs: then it says how near it came."""
        only = Partitions(space_of(block()), ((2, 8), (8, 2)))
        low, high = (only.blueprint(only.homogeneous(k)) for k in (0, 1))
        least = min(exact("bitops", b.graph, b.bits) for b in (low, high))
        with pytest.raises(BudgetError, match="no filters at these pairs were found inside"):
            Settler(only, [Budget(cost="bitops", limit=0.6 * least)]).least()
        with pytest.raises(BudgetError, match="weights is at least"):
            Settler(only, [Budget.parse("weights=10B")]).least()
        enough = Settler(only, [Budget(cost="bitops", limit=least)])
        assert enough.over(enough.least()) == 0
