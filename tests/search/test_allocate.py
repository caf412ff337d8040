"""The integer program against brute force."""

import itertools
import math

import graphs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.blueprint import Bits, Blueprint, Budget, Options
from bitsmith.cost import COSTS, Cost, exact, fits
from bitsmith.errors import BudgetError, TrainingError
from bitsmith.search.allocate import allocate
from bitsmith.search.feasible import reachable
from bitsmith.space.precision import Precision, precision

SETS = st.sampled_from([(2,), (8,), (2, 4), (4, 8), (1, 3, 8), (2, 5, 8)])
CHANGING = ["weights", "size", "bitops", "avg_bits"]


def everything(space: Precision) -> list[Blueprint]:
    return [
        space.decode(np.array(flat).reshape(-1, 2)) for flat in itertools.product(*(range(n) for n in space.sizes.flat))
    ]


def loss(space: Precision, penalty: dict[str, np.ndarray], blueprint: Blueprint) -> float:
    rows = zip(space.options, space.encode(blueprint), strict=True)
    return sum(float(penalty[name][w, a]) for name, (w, a) in rows)


def brute_force(space, penalty, budgets) -> float:
    """The least penalty inside the budgets; +inf if none."""
    inside = [bp for bp in everything(space) if fits(bp.graph, bp.bits, budgets)]
    return min((loss(space, penalty, bp) for bp in inside), default=np.inf)


@st.composite
def spaces(draw, layers=3):
    graph = draw(st.sampled_from([graphs.chain((3, 5)), graphs.chain((2, 7), side=4), graphs.chain((4,))]))
    free = [layer.name for layer in graph.layers][:layers]
    options = {name: Options(weight=draw(SETS), activation=draw(SETS)) for name in free}
    return Precision(template=graphs.blueprint(graph), options=options)


def penalties(draw, space, values):
    return {
        name: np.array(
            draw(st.lists(values, min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))), dtype=float
        ).reshape(shape)
        for name, shape in zip(space.options, space.sizes.tolist(), strict=True)
    }


ROUGH = st.one_of(st.integers(0, 3), st.floats(-5, 5), st.just(np.inf))


@given(data=st.data())
def test_equal_to_brute_force_at_limits_of_reachable_blueprints(data):
    """Each limit is the cost of some blueprint, so that boundaries are hit; ties and forbidden pairs included."""
    space = data.draw(spaces())
    penalty = penalties(data.draw, space, ROUGH)
    for matrix in penalty.values():
        matrix.flat[0] = min(matrix.flat[0], 3.0)  # at least one pair is allowed
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    costs = data.draw(st.lists(st.sampled_from([*CHANGING, "ram"]), min_size=1, max_size=3))
    budgets = []
    for cost in costs:
        at = space.sample(rng)
        budgets.append(Budget(cost=cost, limit=exact(cost, at.graph, at.bits)))
    best = brute_force(space, penalty, budgets)
    if best == np.inf:
        with pytest.raises(BudgetError):
            allocate(space, penalty, budgets)
        return
    found = allocate(space, penalty, budgets)
    assert fits(found.graph, found.bits, budgets)
    assert loss(space, penalty, found) == pytest.approx(best, rel=1e-12, abs=1e-12)
    assert allocate(space, penalty, budgets) == found


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([10, 10**5, 10**10]))
def test_equal_to_brute_force_on_random_tables(seed, scale):
    """Cost tables of huge and coprime numbers, where the solver's tolerances would show."""
    rng = np.random.default_rng(seed)
    space = precision(graphs.blueprint(graphs.chain((2, 3, 2))), (2, 4, 8), (4, 8), ends=None)
    names = ["weights", "bitops"]
    numbers = {
        (cost, name, w, a): int(rng.integers(scale))
        for cost in names
        for name, o in space.options.items()
        for w in o.weight
        for a in o.activation
    }
    penalty = {name: rng.normal(size=shape) for name, shape in zip(space.options, space.sizes, strict=True)}
    with pytest.MonkeyPatch.context() as patch:
        for cost in names:
            patch.setitem(COSTS, cost, random_cost(cost, numbers))
        # All 6^4 choices at once: one axis per layer, its pairs in the order of the tables.
        totals = {
            cost: 7 + sum_over_layers([[numbers[cost, n, w, a] for w in o.weight for a in o.activation]
                                       for n, o in space.options.items()])
            for cost in names
        }  # fmt: skip
        losses = sum_over_layers([matrix.ravel() for matrix in penalty.values()])
        at = int(rng.integers(len(losses)))
        for less in (0, 1):
            budgets = [Budget(cost=cost, limit=max(totals[cost][at] - less, 0.5)) for cost in names]
            inside = np.all([totals[b.cost] <= b.limit for b in budgets], axis=0)
            if not inside.any():
                with pytest.raises(BudgetError):
                    allocate(space, penalty, budgets)
                continue
            best = allocate(space, penalty, budgets)
            assert fits(best.graph, best.bits, budgets)
            assert loss(space, penalty, best) == pytest.approx(losses[inside].min(), rel=1e-12)


def sum_over_layers(values: list) -> np.ndarray:
    return sum(np.ix_(*map(np.asarray, values)), start=np.zeros(())).ravel()


def random_cost(cost: str, numbers: dict) -> Cost:
    return Cost(
        name=cost,
        entry=lambda graph, plan, layer, bits: numbers[cost, layer.name, bits.weight, bits.activation],
        fixed=lambda graph, plan: 7,
    )


def test_small_differences_of_penalty_decide():
    """Penalties that differ by far less than the solver's absolute gap."""
    space = precision(graphs.blueprint(graphs.chain((4, 4, 4))), (2, 4), (8,))
    penalty = {name: np.zeros(shape) for name, shape in zip(space.options, space.sizes, strict=True)}
    penalty["conv1"][:] = [[2e-9], [1e-9]]
    penalty["conv2"][:] = [[1.5e-9], [1e-9]]
    low, _ = reachable(space, ["weights"])["weights"]
    one_raise = 2 * 4 * 4 * 9 // 8
    found = allocate(space, penalty, [Budget(cost="weights", limit=low + one_raise)])
    assert (found.bits["conv1"].weight, found.bits["conv2"].weight) == (4, 2)


@pytest.mark.parametrize("cost", CHANGING)
def test_a_limit_is_met_exactly_and_one_unit_less_is_not(cost):
    space = precision(graphs.blueprint(graphs.resnet8()), (2, 3, 4), (4, 8))
    penalty = {n: -np.add.outer(o.weight, o.activation).astype(float) for n, o in space.options.items()}
    low, high = reachable(space, [cost])[cost]
    found = allocate(space, penalty, [Budget(cost=cost, limit=low)])
    assert exact(cost, found.graph, found.bits) == low
    with pytest.raises(BudgetError, match=f"{cost} is at least"):
        allocate(space, penalty, [Budget(cost=cost, limit=np.nextafter(low, 0))])
    full = allocate(space, penalty, [Budget(cost=cost, limit=high)])
    assert full == space.uniform(4, 8)


def test_without_budgets_every_layer_takes_its_best():
    space = precision(graphs.blueprint(graphs.residual()), (2, 3, 4), (4, 8))
    rng = np.random.default_rng(0)
    penalty = {name: rng.random(shape) for name, shape in zip(space.options, space.sizes, strict=True)}
    indices = space.encode(allocate(space, penalty, []))
    assert all(
        penalty[n].argmin() == np.ravel_multi_index(i, penalty[n].shape) for n, i in zip(penalty, indices, strict=True)
    )


def test_the_example_of_the_docstring():
    s = graphs.Sketch((1, 2, 2))
    y = s.conv("a", "x", 8, kernel=1)
    graph = s.graph(s.conv("b", y, 2, kernel=1))
    space = precision(graphs.blueprint(graph), (2, 4), ends=None)
    found = allocate(space, {"a": np.array([[3.0], [0]]), "b": np.array([[1.0], [0]])}, [Budget.parse("weights=8B")])
    assert (found.bits["a"].weight, found.bits["b"].weight) == (4, 2)


def test_a_large_space_is_solved():
    """21 layers, 16 pairs each, two budgets."""
    space = precision(graphs.blueprint(graphs.resnet18(64)), (1, 2, 4, 8), (2, 3, 4, 8), ends=None)
    rng = np.random.default_rng(0)
    penalty = {
        n: rng.random() * np.add.outer(4.0 ** -np.array(o.weight), 4.0 ** -np.array(o.activation))
        for n, o in space.options.items()
    }
    budgets = [Budget.parse("weights=3MB"), Budget.parse("avg_bits=3")]
    found = allocate(space, penalty, budgets)
    assert fits(found.graph, found.bits, budgets)
    # At the optimum no single layer can change and gain.
    here = loss(space, penalty, found)
    for name, options in space.options.items():
        for w, a in itertools.product(options.weight, options.activation):
            moved = found.with_bits({**found.bits, name: Bits(weight=w, activation=a)})
            assert loss(space, penalty, moved) >= here or not fits(moved.graph, moved.bits, budgets)


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_dynamic_programming_on_a_long_chain(seed):
    """18 layers, 5 widths, one budget: the front of (cost, penalty) states, layer by layer, is exact too."""
    rng = np.random.default_rng(seed)
    widths = tuple(int(w) for w in rng.integers(1, 6, size=17))
    space = precision(graphs.blueprint(graphs.chain(widths)), (1, 2, 3, 4, 8), ends=None)
    penalty = {n: np.sort(rng.random(shape), axis=0)[::-1] for n, shape in zip(space.options, space.sizes, strict=True)}
    limit = exact("weights", space.template.graph, space.uniform(3, 8).bits) + 1
    states = {0: 0.0}
    for layer in space.template.graph.layers:
        grown: dict[int, float] = {}
        for used, lost in states.items():
            for bits, more in zip(space.options[layer.name].weight, penalty[layer.name][:, 0], strict=True):
                cost = used + math.ceil(layer.weights * bits / 8)
                if cost <= limit:
                    grown[cost] = min(grown.get(cost, np.inf), lost + float(more))
        states = grown
    found = allocate(space, penalty, [Budget(cost="weights", limit=limit)])
    assert loss(space, penalty, found) == pytest.approx(min(states.values()), rel=1e-12)


def zeros(space: Precision) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape) for name, shape in zip(space.options, space.sizes, strict=True)}


def test_a_budget_that_no_bits_change_says_so():
    space = precision(graphs.blueprint(graphs.resnet8()), (2, 3, 4))
    with pytest.raises(
        BudgetError, match=r"ram is 49.15 kB whatever the bits are, the budget is 32 kB; narrower layers"
    ):
        allocate(space, zeros(space), [Budget.parse("ram=32kB")])


def test_every_budget_out_of_reach_is_named():
    space = precision(graphs.blueprint(graphs.resnet8()), (2, 3, 4))
    budgets = [Budget.parse("weights=20143B"), Budget.parse("avg_bits=1"), Budget.parse("size=1MB")]
    with pytest.raises(BudgetError) as error:
        allocate(space, zeros(space), budgets)
    assert "weights is at least 20.144 kB in this space, the budget is 20.143 kB" in str(error.value)
    assert "avg_bits is at least" in str(error.value)
    assert "size" not in str(error.value)


def test_budgets_that_conflict_are_named_with_the_least_violation():
    # The least bitops need 2-bit activations, the least size 8-bit ones, which need no tables.
    space = precision(graphs.blueprint(graphs.residual(channels=4)), (2,), (2, 8))
    graph = space.template.graph
    no_table = exact("size", graph, space.uniform(2, 8).bits)
    coarse = exact("bitops", graph, space.uniform(2, 2).bits)
    budgets = [Budget(cost="bitops", limit=coarse), Budget(cost="size", limit=no_table), Budget.parse("params=1M")]
    with pytest.raises(BudgetError) as error:
        allocate(space, zeros(space), budgets)
    message = str(error.value)
    assert str(budgets[0]) in message
    assert str(budgets[1]) in message
    assert "params" not in message
    least = min(
        max(exact("bitops", graph, bp.bits) / coarse - 1, 0) + max(exact("size", graph, bp.bits) / no_table - 1, 0)
        for bp in everything(space)
    )
    stated = sum(float(word) for word in message.replace("%", " ").split() if _is_number(word))
    assert stated == pytest.approx(100 * least, rel=5e-3)


def _is_number(word: str) -> bool:
    return word.replace(".", "", 1).isdigit()


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_failed_measurements_are_refused(bad):
    space = precision(graphs.blueprint(graphs.chain((4, 4))), (2, 4), (4, 8))
    penalty = zeros(space)
    penalty["conv1"][1, 0] = bad
    with pytest.raises(TrainingError, match="'conv1' at w4a4"):
        allocate(space, penalty, [])
    penalty["conv1"][:] = np.inf
    with pytest.raises(TrainingError, match="every option of layer 'conv1' is forbidden"):
        allocate(space, penalty, [])


@given(space=spaces())
def test_reachable_by_enumeration(space):
    for cost in COSTS:
        values = [exact(cost, bp.graph, bp.bits) for bp in everything(space)]
        assert reachable(space, [cost])[cost] == (min(values), max(values))
