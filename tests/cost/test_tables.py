"""Tables and expected costs against exact ones."""

import graphs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.blueprint import FLOAT, Bits, Options
from bitsmith.cost import COSTS, ExpectedCost, exact, table, tabulate

WIDTHS = st.lists(st.sampled_from([*range(1, 9), FLOAT]), min_size=1, max_size=4, unique=True).map(
    lambda v: tuple(sorted(v))
)
OPTIONS = st.builds(Options, weight=WIDTHS, activation=WIDTHS)


@st.composite
def spaces(draw):
    graph = draw(graphs.random_graphs())
    return graph, {layer.name: draw(OPTIONS) for layer in graph.layers}


def one_hot(length: int, index: int, dtype=torch.float32) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(index), length).to(dtype)


@given(space=spaces(), data=st.data())
def test_expected_at_one_hot_is_exact(space, data):
    graph, options = space
    bits, p, q = {}, {}, {}
    for name, o in options.items():
        w, a = data.draw(st.integers(0, len(o.weight) - 1)), data.draw(st.integers(0, len(o.activation) - 1))
        bits[name] = Bits(weight=o.weight[w], activation=o.activation[a])
        p[name], q[name] = one_hot(len(o.weight), w), one_hot(len(o.activation), a)
    for cost in COSTS:
        expected = ExpectedCost(cost, graph, options)(p, q)
        assert expected.dtype == torch.float64
        if cost == "ram" and any(o.activation[-1] == FLOAT != o.activation[0] for o in options.values()):
            assert expected.item() >= exact(cost, graph, bits)  # a maximum, so a bound where floats are a choice
        else:
            assert expected.item() == exact(cost, graph, bits)


@pytest.mark.parametrize("cost", COSTS)
def test_expected_at_one_hot_is_exact_on_resnet18(cost):
    graph = graphs.resnet18()
    options = {layer.name: Options(weight=(2, 4), activation=(3, 8)) for layer in graph.layers}
    p = {layer.name: one_hot(2, i % 2) for i, layer in enumerate(graph.layers)}
    q = {layer.name: one_hot(2, (i // 2) % 2) for i, layer in enumerate(graph.layers)}
    bits = {
        layer.name: Bits(weight=(2, 4)[i % 2], activation=(3, 8)[(i // 2) % 2]) for i, layer in enumerate(graph.layers)
    }
    assert ExpectedCost(cost, graph, options)(p, q).item() == exact(cost, graph, bits)


@pytest.mark.parametrize("cost", ["weights", "size", "bitops"])
def test_expected_is_the_mean_over_draws(cost):
    """The expectation over all 4 x 4 draws of two layers, each priced exactly."""
    graph = graphs.chain((4,))
    options = {layer.name: Options(weight=(1, 3), activation=(2, 8)) for layer in graph.layers}
    p = {"conv0": torch.tensor([0.25, 0.75]), "fc": torch.tensor([0.5, 0.5])}
    q = {"conv0": torch.tensor([0.125, 0.875]), "fc": torch.tensor([1.0, 0.0])}
    mean = 0.0
    for w0, a0, w1, a1 in np.ndindex(2, 2, 2, 2):
        bits = {
            "conv0": Bits(weight=(1, 3)[w0], activation=(2, 8)[a0]),
            "fc": Bits(weight=(1, 3)[w1], activation=(2, 8)[a1]),
        }
        probability = p["conv0"][w0] * q["conv0"][a0] * p["fc"][w1] * q["fc"][a1]
        mean += probability.item() * exact(cost, graph, bits)
    assert ExpectedCost(cost, graph, options)(p, q).item() == pytest.approx(mean, rel=1e-14)


@pytest.mark.parametrize("cost", ["weights", "size", "bitops", "avg_bits"])
def test_gradient_against_finite_differences(cost):
    graph = graphs.residual()
    options = {layer.name: Options(weight=(2, 3, 8), activation=(4, 8)) for layer in graph.layers}
    expected = ExpectedCost(cost, graph, options)
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(n, generator=generator, dtype=torch.float64) for _ in graph.layers for n in (3, 2)]
    leaves = [v.requires_grad_() for v in logits]
    scale = expected(*_probabilities(graph, leaves)).item()

    def relative(*values):
        return expected(*_probabilities(graph, values)) / scale

    assert torch.autograd.gradcheck(relative, tuple(leaves), eps=1e-6, atol=1e-9, rtol=1e-6)
    relative(*leaves).backward()
    assert all(leaf.grad.abs().sum() > 0 for leaf in leaves[::2])


def _probabilities(graph, values):
    names = [layer.name for layer in graph.layers]
    p = {name: values[2 * i].softmax(0) for i, name in enumerate(names)}
    q = {name: values[2 * i + 1].softmax(0) for i, name in enumerate(names)}
    return p, q


@given(space=spaces())
def test_least_and_greatest_and_what_is_decided(space):
    graph, options = space
    for cost in COSTS:
        tables = tabulate(cost, graph, options)
        corners = [tables.total(np.array([[f(len(o.weight) - 1), g(len(o.activation) - 1)] for o in options.values()]))
                   for f in (_zero, _keep) for g in (_zero, _keep)]  # fmt: skip
        values = [tables.value(total) for total in corners]
        assert tables.least() <= min(values)
        assert tables.greatest() >= max(values)
        if cost in ("params", "macs"):
            assert not tables.decided
        if cost == "ram" and tables.decided:
            assert any(o.activation[-1] == FLOAT != o.activation[0] for o in options.values())
        if not tables.decided:
            assert tables.least() == tables.greatest()


def _zero(_):
    return 0


def _keep(index):
    return index


@given(
    bits=st.lists(st.sampled_from([(2, 3), (4, 8), (8, 8), (3, 5)]), min_size=4, max_size=4),
    below=st.floats(1e-14, 0.5),
)
def test_whole_limit_is_the_last_total_inside(bits, below):
    """A limit equal to a reachable value admits it; any less admits one unit less at most."""
    graph = graphs.resnet8()
    names = [layer.name for layer in graph.layers]
    chosen = {n: Bits(weight=bits[i % 4][0], activation=bits[i % 4][1]) for i, n in enumerate(names)}
    options = {n: Options(weight=(2, 3, 4, 8), activation=(3, 5, 8)) for n in names}
    for cost in COSTS:
        tables = tabulate(cost, graph, options)
        value = exact(cost, graph, chosen)
        total = tables.whole_limit(value)
        assert tables.value(total) == value
        assert tables.value(tables.whole_limit(value * (1 - below))) <= value * (1 - below)
        assert tables.whole_limit(1e300) == max(total, tables.whole_limit(tables.greatest()))


def test_table_of_the_docstring():
    s = graphs.Sketch((3, 8, 8))
    graph = s.graph(s.conv("conv", "x", 16))
    options = Options(weight=(2, 3), activation=(8,))
    assert table("weights", graph, graph.layers[0], options).tolist() == [[108.0], [162.0]]
    half = ExpectedCost("weights", graph, {"conv": options})(
        {"conv": torch.tensor([0.5, 0.5])}, {"conv": torch.ones(1)}
    )
    assert half.item() == 135
