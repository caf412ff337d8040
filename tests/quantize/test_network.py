"""Network: names, grids, float weights, determinism."""

from __future__ import annotations

import dataclasses

import graphs
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bitsmith.blueprint import FLOAT, Bits, Blueprint, NetworkGraph
from bitsmith.errors import BitsmithError, RunError
from bitsmith.quantize import QUANTIZERS, LsqActivation, LsqWeight, Stream, build, float_blueprint


def seeded(blueprint: Blueprint, seed: int = 0):
    torch.manual_seed(seed)
    return build(blueprint)


def test_parameters_keep_their_names():
    network = build(graphs.blueprint(graphs.chain((4, 6)), 4, 8))
    names = {name for name, _ in network.named_parameters()}
    assert names == {
        "conv0.weight", "conv0.norm.weight", "conv0.norm.bias",
        "conv0.quantize_weight.log_step", "conv0.quantize_input.log_step",
        "conv1.weight", "conv1.norm.weight", "conv1.norm.bias",
        "conv1.quantize_weight.log_step", "conv1.quantize_input.log_step",
        "fc.weight", "fc.bias", "fc.quantize_weight.log_step", "fc.quantize_input.log_step",
        "streams.relu1.log_step",  # what the average pool reads
    }  # fmt: skip
    dotted = build(graphs.blueprint(graphs.residual()))
    assert dotted.get_submodule("a.conv1") is dotted.layer("a.conv1")
    assert [name for name, _ in dotted.priced()] == [layer.name for layer in graphs.residual().layers]


def test_one_step_per_filter_but_one_for_the_classifier():
    network = build(graphs.blueprint(graphs.residual(), 4, 8))
    for name, layer in network.priced():
        rows = 1 if name == "fc" else layer.weight.shape[0]
        assert isinstance(layer.quantize_weight, LsqWeight)
        assert layer.quantize_weight.log_step.numel() == rows


def test_grids_of_a_residual_network():
    graph = graphs.residual()
    network = build(graphs.blueprint(graph, 2, 4))
    # stem.relu is read by a conv and by an add: a stream, one with the add's result and the branch that meets it.
    assert network.stream("stem.relu") is network.stream("a.conv2") is network.stream("a.relu2")
    assert network.stream("b.conv2") is network.stream("b.down") is network.stream("b.relu2")
    assert network.stream("a.relu2") is not network.stream("b.relu2")
    assert all(isinstance(stream, Stream) and stream.bits == 8 for stream in network.streams.values())
    with torch.no_grad():
        for i, parameter in enumerate(network.parameters()):
            if parameter.numel() == 1:
                parameter.fill_(0.1 * (i + 1))
    a, b = network.grid("a.conv2"), network.grid("a.relu2")
    assert (a.lo, a.hi, b.lo, b.hi) == (-128, 127, 0, 255)
    assert a.step == b.step == float(network.stream("a.relu2").log_step.detach().exp())
    direct = network.grid("a.relu1")  # read by one conv alone: its own 4-bit grid
    assert (direct.lo, direct.hi) == (0, 15)
    assert direct == network.input_grid("a.conv2")
    narrowed = network.input_grid("a.conv1")
    assert (narrowed.lo, narrowed.hi) == (0, 15)
    assert narrowed.step != b.step
    assert network.grid("x") == network.input_grid("stem")
    assert network.input_grid("stem").lo == -8


def test_a_layer_that_reads_a_stream_at_its_bits_has_no_quantizer_of_its_own():
    network = build(graphs.blueprint(graphs.residual(), 4, 8))
    inputs = {name: layer.quantize_input for name, layer in network.priced()}
    assert [name for name, quantizer in inputs.items() if quantizer is None] == ["a.conv1", "b.conv1", "b.down"]
    assert network.input_grid("a.conv1") == network.grid("stem.relu")


def test_members_of_a_group_share_their_step_to_the_bit():
    """Whatever their sizes: an add of integers needs one step."""
    network = build(graphs.blueprint(graphs.residual(), 4, 8)).eval()
    seen: dict[str, torch.Tensor] = {}
    stream = network.stream("b.down")
    torch.manual_seed(0)
    for value in torch.rand(50):
        with torch.no_grad():
            stream.log_step.fill_(value)
        for shape in ((1, 3), (2, 8, 4, 4), (4, 17)):
            top = stream(torch.full(shape, 1e9), False).detach().flatten()[0]
            seen.setdefault(str(float(value)), top)
            assert torch.equal(seen[str(float(value))], top)
            assert float(top) == pytest.approx(255 * stream.grid(False).step, rel=1e-6)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_the_same_blueprint_builds_the_same_network(quantizer):
    blueprint = dataclasses.replace(graphs.blueprint(graphs.every_operator(), 4, 4), quantizer=quantizer)
    a, b = seeded(blueprint), seeded(Blueprint.from_json(blueprint.to_json()))
    assert list(a.state_dict()) == list(b.state_dict())
    assert all(torch.equal(a.state_dict()[k], b.state_dict()[k]) for k in a.state_dict())
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(a(x), b(x))
    other = seeded(blueprint, seed=1)
    assert not torch.equal(a(x), other(x))


def test_unknown_quantizer():
    with pytest.raises(BitsmithError, match=r"'nsq'.*known are lsq"):
        build(dataclasses.replace(graphs.blueprint(graphs.chain()), quantizer="nsq"))


class Plain(nn.Module):
    """graphs.residual() in plain torch."""

    def __init__(self) -> None:
        super().__init__()

        def conv(i, o, kernel=3, stride=1):
            return nn.Sequential(nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(o))

        self.layers = nn.ModuleDict(
            {
                "stem": conv(3, 4), "a/conv1": conv(4, 4), "a/conv2": conv(4, 4), "b/conv1": conv(4, 8, stride=2),
                "b/conv2": conv(8, 8), "b/down": conv(4, 8, 1, 2),
            }
        )  # fmt: skip
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        layer = self.layers
        x = F.relu(layer["stem"](x))
        x = F.relu(layer["a/conv2"](F.relu(layer["a/conv1"](x))) + x)
        x = F.relu(layer["b/conv2"](F.relu(layer["b/conv1"](x))) + layer["b/down"](x))
        return self.fc(x.mean((2, 3)))

    def state(self) -> dict[str, torch.Tensor]:
        """In the names of a Network."""
        found = {f"fc.{k}": v for k, v in self.fc.state_dict().items()}
        for name, layer in self.layers.items():
            found |= {
                f"{name}.{k.replace('0.', '').replace('1.', 'norm.')}".replace("/", "."): v
                for k, v in layer.state_dict().items()
            }
        return found


def test_the_float_network_computes_what_plain_torch_does():
    torch.manual_seed(0)
    plain = Plain()
    network = build(float_blueprint(graphs.residual()))
    network.load_float(plain.state())
    x = torch.randn(4, 3, 8, 8)
    assert torch.allclose(network(x), plain(x), atol=1e-6)  # train mode: running statistics move
    assert torch.allclose(network.eval()(x), plain.eval()(x), atol=1e-6)
    assert len(network.streams) == 0


def test_load_float_starts_every_weight_step_from_the_weights():
    plain = Plain()
    network = build(graphs.blueprint(graphs.residual(), 3, 8))
    inputs = [m.log_step.clone() for m in network.modules() if isinstance(m, LsqActivation)]
    network.load_float(plain.state())
    for name, layer in network.priced():
        assert torch.equal(layer.weight, plain.state()[f"{name}.weight"])
        fresh = LsqWeight(3, tuple(layer.weight.shape), per_filter=name != "fc")
        fresh.calibrate(layer.weight)
        assert isinstance(layer.quantize_weight, LsqWeight)
        assert torch.equal(layer.quantize_weight.log_step, fresh.log_step)
    after = [m.log_step for m in network.modules() if isinstance(m, LsqActivation)]
    assert all(torch.equal(a, b) for a, b in zip(inputs, after, strict=True))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("fc.bias"), "fc.bias"),
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), "extra.weight"),
        (lambda s: s.update({"stem.weight": torch.zeros(4, 1, 3, 3)}), "stem.weight"),
        (lambda s: s.pop("stem.norm.running_var"), "stem.norm.running_var"),
    ],
)
def test_load_float_refuses_another_network(change, named):
    state = Plain().state()
    change(state)
    network = build(graphs.blueprint(graphs.residual(), 3, 8))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(RunError, match=named):
        network.load_float(state)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@given(graphs.random_graphs(), st.sampled_from(sorted(QUANTIZERS)), st.integers(1, 8), st.integers(1, 8))
def test_any_graph_runs_forward_and_backward_at_any_bits(graph, quantizer, weight, activation):
    blueprint = Blueprint(graph=graph, bits=graphs.uniform_bits(graph, weight, activation), quantizer=quantizer)
    network = seeded(blueprint)
    y = network(torch.randn(3, *graph.input_shape))
    assert y.shape == (3, *graph.output_shape)
    assert y.isfinite().all()
    y.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@given(graphs.random_graphs())
def test_float_bits_mean_no_quantizer(graph):
    network = build(float_blueprint(graph))
    assert not any(isinstance(m, LsqWeight | LsqActivation | Stream) for m in network.modules())
    mixed = {layer.name: Bits(weight=FLOAT, activation=4) for layer in graph.layers}
    network = build(Blueprint(graph=graph, bits=mixed))
    assert all(layer.quantize_weight is None for _, layer in network.priced())


def test_the_wider_vocabulary_is_torchs():
    """A float network of it against the same calls by hand, gradients included."""
    network = seeded(float_blueprint(graphs.modern())).eval()
    state = network.state_dict()
    x = torch.randn(3, 3, 8, 8)

    def conv(name, x, padding=1, stride=1):
        bias = state.get(f"{name}.bias")
        y = F.conv2d(x, state[f"{name}.weight"], bias, stride, padding)
        if f"{name}.norm.weight" not in state:
            return y
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(y, *(state[f"{name}.norm.{key}"] for key in keys), eps=1e-5)

    y = F.hardswish(conv("stem", x))
    y = y * F.hardsigmoid(conv("se.fc", y.mean((2, 3), keepdim=True), padding=0))
    left = F.silu(conv("twice", y[:, :2]))
    left = torch.tanh(conv("twice", left))
    right = F.gelu(F.pad(conv("deep", y[:, 2:], padding=0), (1, 1, 1, 1), "reflect"))
    y = torch.cat([left, F.max_pool2d(right, 3, 1)], 1)[:, [0, 2, 1, 3]]
    mean = F.leaky_relu(F.avg_pool2d(y, 3, 1, 1, count_include_pad=False))
    y = y + mean + F.relu(conv("side", y))
    y = torch.sigmoid(conv("last", F.pad(y, (1, 0, 0, 2)), stride=2)).mean((2, 3))
    expected = F.linear(y, state["fc.weight"], state["fc.bias"])
    torch.testing.assert_close(network(x), expected)


def used_twice(*, shared: bool) -> NetworkGraph:
    s = graphs.Sketch((2, 6, 6))
    y = s.conv("b", s.same("relu", "relu", s.conv("a", "x", 2)), 2, norm=False)
    y = s.shared("c", y, "b") if shared else s.conv("c", y, 2, norm=False)
    return s.graph(s.flatten("flat", s.global_pool("pool", y)))


def test_the_gradient_of_a_layer_used_twice_is_the_sum_of_two_layers():
    tied, untied = (seeded(float_blueprint(used_twice(shared=shared))) for shared in (True, False))
    state = tied.state_dict()
    untied.load_state_dict({**state, "c.weight": state["b.weight"]})
    x = torch.randn(4, 2, 6, 6)
    for network in (tied, untied):
        network.train()(x).square().sum().backward()
    gradients = [dict(untied.priced())[name].weight.grad for name in ("b", "c")]
    torch.testing.assert_close(dict(tied.priced())["b"].weight.grad, sum(gradients))


def test_uses_of_a_layer_have_one_weight_and_one_pair_of_quantizers():
    network = seeded(graphs.blueprint(used_twice(shared=True), 4, 4))
    assert [name for name, _ in network.priced()] == ["a", "b"]
    assert not any(name.startswith("c.") for name in network.state_dict())
    layer = dict(network.priced())["b"]
    assert isinstance(layer.quantize_input, LsqActivation)
    assert layer.quantize_input.signed  # the second use reads what can be negative
    wide = seeded(graphs.blueprint(used_twice(shared=True), 8, 8))
    assert dict(wide.priced())["b"].quantize_input is None  # both streams as they are, with and without sign
    assert (wide.input_grid("b").lo, wide.input_grid("b").hi) == (-128, 255)


@pytest.mark.parametrize("shape", [(3, 4, 4), (5,)])
def test_the_input_is_scaled_and_moved(shape):
    s = graphs.Sketch(shape)
    graph = s.graph(s.linear("fc", s.flatten("flat", "x") if len(shape) == 3 else "x", 2))
    gain, offset = tuple(0.5 + c for c in range(shape[0])), tuple(0.25 * c - 1 for c in range(shape[0]))
    first = dataclasses.replace(graph.nodes[0], gain=gain, offset=offset)
    moved = NetworkGraph(nodes=(first, *graph.nodes[1:]), output=graph.output)
    plain, network = seeded(float_blueprint(graph)), seeded(float_blueprint(moved))
    assert plain.state_dict().keys() == network.state_dict().keys()
    x = torch.randn(3, *shape)
    column = (-1, *[1] * (len(shape) - 1))
    expected = plain(x * torch.tensor(gain).reshape(column) + torch.tensor(offset).reshape(column))
    assert torch.equal(network(x), expected)
