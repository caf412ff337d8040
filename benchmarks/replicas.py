"""Many small networks of one topology trained at once, each as `evaluate_blueprint` would train it alone.

At 8x8 pixels a training step of one network is nearly all overhead: tens of operators on a few thousand numbers. So R
networks that differ in weight bits and seeds alone become one network of R times the channels: convolutions in R times
the groups, one BatchNorm channel, one weight step per filter as ever, and steps of activations, of streams and of the
classifier per network. No number of one network reaches another. First weights, batches, calibration, optimizer and
schedule are those of `bitsmith.search.evaluate_blueprint` for each seed; the sums run in another order, so that results
agree to float32's rounding and what training makes of it (a test compares both).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsmith.blueprint import Blueprint, Node
from bitsmith.data import Split
from bitsmith.quantize import Network, Stepped, build, float_blueprint
from bitsmith.quantize.filterwise import FilterWise
from bitsmith.quantize.layers import Priced
from bitsmith.quantize.levels import Range, levels
from bitsmith.quantize.lsq import LsqActivation, LsqWeight, Stream, best_step
from bitsmith.quantize.quantizer import activation_range, round_through, scale_gradient
from bitsmith.seeding import derive
from bitsmith.train import Task, TrainPlan, make_optimizer, make_schedule
from bitsmith.train.statistics import calibrate

_GRADIENT = 0.1  # of a step of activations, as in `bitsmith.quantize.lsq`
_SAMPLED = 1 << 16  # numbers that a step is calibrated on, likewise


@final
@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one training of one network came to, on validation data."""

    loss: float
    metric: float


def train_replicas(
    task: Task, blueprints: Sequence[Blueprint], seeds: Sequence[int], plan: TrainPlan
) -> list[list[Outcome]]:
    """Train every blueprint from every seed, all at once; outcomes by blueprint, then by seed.

    Args:
        blueprints: of one topology, the quantizer lsq and activation bits of 8; their weight bits may differ.
        seeds: of problems, see `evaluate_blueprint`.
        plan: float32, one device, nothing distilled, averaged or noisy.
    """
    assert all(blueprint.graph == blueprints[0].graph for blueprint in blueprints)
    seeds = [derive(seed, "evaluate") for seed in seeds]
    network = Replicas(blueprints, [derive(seed, "weights") for seed in seeds])
    data, size = task.data.training, plan.batch_size
    first = _Batches(data, [derive(seed, "calibrate") for seed in seeds], len(blueprints))
    calibrate(network, cast(Split, first), batch_size=size)
    optimizer = make_optimizer(network, plan)
    schedule = make_schedule(optimizer, plan, steps=max(2, plan.epochs * data.steps(batch_size=size)))
    network.train()
    for epoch in range(plan.epochs):
        batches = _Batches(data, [derive(seed, "batches", epoch) for seed in seeds], len(blueprints))
        for x, y in batches.batches(batch_size=size):
            loss = F.cross_entropy(network(x).reshape(len(y), network.n, -1).flatten(0, 1), y.flatten()) * network.n
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return _outcomes(network.eval(), task, len(seeds))


@torch.no_grad()
def _outcomes(network: Replicas, task: Task, seeds: int) -> list[list[Outcome]]:
    logits, labels = [], []
    for x, y in task.data.validation.batches(batch_size=500):
        logits.append(network(x.repeat(1, network.n, 1, 1)).reshape(len(y), network.n, -1))
        labels.append(y)
    scores, truth = torch.cat(logits), torch.cat(labels)
    each = [
        Outcome(
            loss=float(task.compute_loss(scores[:, r], truth, smooth=False)), metric=task.score(scores[:, r], truth)
        )
        for r in range(network.n)
    ]
    return [each[k * seeds : (k + 1) * seeds] for k in range(network.n // seeds)]


@final
class _Batches:
    """The batches of several seeds side by side: x (B, R C, H, W) and y (B, R), seeds within blueprints."""

    def __init__(self, split: Split, seeds: Sequence[int], times: int) -> None:
        self._split, self._seeds, self._times = split, seeds, times

    def batches(self, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass; the seeds are its own."""
        streams = [self._split.batches(batch_size=batch_size, seed=own) for own in self._seeds]
        for parts in zip(*streams, strict=True):
            x, y = torch.cat([x for x, _ in parts], 1), torch.stack([y for _, y in parts], 1)
            yield x.repeat(1, self._times, 1, 1), y.repeat(1, self._times)


@final
class Replicas(Stepped):
    """R networks of one topology side by side; see the module's text.

    Args:
        blueprints: of one topology.
        seeds: of the first weights; R = len(blueprints) len(seeds), seeds within blueprints.
    """

    def __init__(self, blueprints: Sequence[Blueprint], seeds: Sequence[int]) -> None:
        super().__init__()
        graph, self.n = blueprints[0].graph, len(blueprints) * len(seeds)
        every = [blueprint for blueprint in blueprints for _ in seeds]
        wide = replace(graph, nodes=tuple(_widened(node, self.n) for node in graph.nodes))
        logits = next(layer.name for layer in graph.layers if layer.kind == "linear")

        def weights(layer, shape: tuple[int, ...], per_filter: bool) -> nn.Module | None:
            if layer.name == logits:
                return None
            filters = shape[0] // self.n
            bits = [cast(int, blueprint.bits[layer.name].weight) for blueprint in every for _ in range(filters)]
            return FilterWise(bits, shape, lambda bits, shape: LsqWeight(bits, shape))

        def inputs(layer, signed: bool, narrows: bool) -> nn.Module | None:
            bits = cast(int, every[0].bits[layer.name].activation)
            return None if narrows and bits == 8 else _Activation(bits, signed=signed, n=self.n)

        self.network = Network(wide, weights, inputs, stream_bits=8)
        for name in self.network.streams:
            self.network.streams[name] = _Stream(self.n)
        self._take_weights([_first_weights(blueprints[0], seed) for seed in seeds] * len(blueprints), logits)
        bits = cast(int, every[0].bits[logits].weight)
        old = cast(Priced, self.network.layer(logits))
        setattr(self.network, logits, _Classifier(old, self.n, bits))
        self.calibrate_weights()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    @torch.no_grad()
    def _take_weights(self, states: Sequence[dict[str, Tensor]], logits: str) -> None:
        for name, layer in self.network.priced():
            whole = torch.cat([state[f"{name}.weight"] for state in states])
            layer.weight = nn.Parameter(
                whole if name == logits else whole.contiguous(memory_format=torch.channels_last)
            )


def _first_weights(blueprint: Blueprint, seed: int) -> dict[str, Tensor]:
    """What `build` draws, which doesn't hang on bits."""
    torch.manual_seed(seed)
    return build(float_blueprint(blueprint.graph)).state_dict()


def _widened(node: Node, n: int) -> Node:
    """The node with the channels of n networks."""
    groups = node.groups * n if node.op == "conv" else node.groups
    return replace(node, shape=(node.shape[0] * n, *node.shape[1:]), groups=groups)


def _by_network(x: Tensor, n: int) -> Tensor:
    """(B, n C, ...) -> (n, numbers): at most `_SAMPLED` of each network's, evenly spaced, as of `lsq.sample`."""
    rows = x.reshape(x.shape[0], n, -1).transpose(0, 1).reshape(n, -1)
    return rows[:, :: max(1, rows.shape[1] // _SAMPLED)]


def _quantized(x: Tensor, log_step: Tensor, lo: int, hi: int) -> Tensor:
    """LSQ with one step for every network, by automatic differentiation."""
    step = scale_gradient(log_step, _GRADIENT).exp()
    parts = x.unflatten(1, (len(step), -1))
    step = step.reshape(1, -1, *[1] * (parts.ndim - 2))
    return (round_through((parts / step).clamp(lo, hi)) * step).flatten(1, 2)


@final
class _Activation(LsqActivation):
    """`LsqActivation` with a step for every network."""

    def __init__(self, bits: int, *, signed: bool, n: int) -> None:
        super().__init__(bits, signed=signed)
        self.log_step = nn.Parameter(torch.zeros(n))

    def forward(self, x: Tensor) -> Tensor:
        if self.calibrating:
            self.calibrate(x)
        return _quantized(x, self.log_step, self.lo, self.hi)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        self.seen.append(best_step(_by_network(x, len(self.log_step)), self.lo, self.hi))
        self.log_step.copy_(torch.stack(self.seen).mean(0).log())


@final
class _Stream(Stream):
    """`Stream` of 8 bits with a step for every network."""

    def __init__(self, n: int) -> None:
        super().__init__(8)
        self.log_step = nn.Parameter(torch.zeros(n))

    def forward(self, x: Tensor, signed: bool) -> Tensor:
        lo, hi = activation_range(self.bits, signed)
        if self.calibrating:
            with torch.no_grad():
                self.seen.append(best_step(_by_network(x, len(self.log_step)), lo, hi))
                self.log_step.copy_(torch.stack(self.seen).amax(0).log())
        return _quantized(x, self.log_step, lo, hi)


@final
class _Classifier(Priced):
    """n classifiers, each with one step for its weights and one for what it reads."""

    def __init__(self, wide: Priced, n: int, bits: int) -> None:
        super().__init__(wide.node, wide.weight.shape[1], quantize_input=wide.quantize_input)
        self.weight, self.n = wide.weight, n
        self.quantize_weight = _Rows(bits, (n, self.weight.numel() // n))

    def forward(self, x: Tensor, use: Node | None = None) -> Tensor:
        assert self.quantize_weight is not None
        assert self.bias is not None
        x = x if self.quantize_input is None else self.quantize_input(x)
        weight = self.quantize_weight(self.weight).reshape(self.n, -1, self.weight.shape[1])
        return torch.einsum("bni,noi->bno", x.reshape(len(x), self.n, -1), weight).flatten(1) + self.bias


@final
class _Rows(LsqWeight):
    """`LsqWeight` of n matrices below each other, a step for each."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(len(self.log_step), -1)
        return levels(rows, self.step(rows).reshape(1, -1), [Range(*self.range)]).reshape(x.shape)
